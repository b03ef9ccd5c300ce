import { Button, Group, Paper, Text } from "@mantine/core";
import { useEffect, useState } from "react";
import { api, type Schemas, save } from "../../api/client";
import { Failure } from "../../components/states";

const most = 100_000;

/** Saves the entries that match as JSON Lines: each has the hash that the chain is verified by. */
export function Export({ query, onClose }: { query: { tenant?: string }; onClose: () => void }) {
  const [read, setRead] = useState(0);
  const [state, setState] = useState<"reading" | "saved" | "cut">("reading");
  const [error, setError] = useState<unknown>();
  const [attempt, setAttempt] = useState(0);
  // What is exported is what matched when it began.
  const [fixed] = useState(query);
  // biome-ignore lint/correctness/useExhaustiveDependencies: each attempt begins anew
  useEffect(() => {
    const ended = new AbortController();
    const run = async () => {
      const lines: string[] = [];
      let after: string | undefined;
      try {
        do {
          const { data } = await api.GET("/v1/audit", {
            params: { query: { ...fixed, limit: 500, ...(after ? { after } : {}) } },
            signal: ended.signal,
          });
          const page = data as Schemas["PageAuditBody"];
          for (const e of page.items ?? []) lines.push(JSON.stringify(e));
          setRead(lines.length);
          after = page.next;
        } while (after && lines.length < most);
        const day = new Date().toISOString().slice(0, 10);
        save(
          new Blob([`${lines.join("\n")}\n`], { type: "application/jsonl" }),
          `audit-${fixed.tenant ?? "platform"}-${day}.jsonl`,
        );
        setState(after ? "cut" : "saved");
      } catch (failed) {
        if (!ended.signal.aborted) setError(failed);
      }
    };
    void run();
    return () => ended.abort();
  }, [attempt]);
  return (
    <Paper withBorder p="sm" component="section" aria-label="Export">
      <Group justify="space-between">
        <Text size="sm" role="status">
          {state === "reading"
            ? `Reading: ${read.toLocaleString()} entries`
            : `Saved ${read.toLocaleString()} entries as JSON Lines${state === "cut" ? ": there are more, narrow the time to export them" : ""}`}
        </Text>
        <Button size="xs" variant="default" onClick={onClose}>
          {state === "reading" ? "Stop" : "Close"}
        </Button>
      </Group>
      {error !== undefined && (
        <Failure
          error={error}
          retry={() => {
            setError(undefined);
            setAttempt((n) => n + 1);
          }}
        />
      )}
    </Paper>
  );
}
