import { Alert, Button, Code, Group, Paper, Progress, Stack, Text } from "@mantine/core";
import { useEffect, useState } from "react";
import { api, type Schemas } from "../../api/client";
import { Failure } from "../../components/states";
import { Time } from "../../components/Time";

type Piece = Schemas["VerificationBody"];

/** Verifies the chains of the audit log, piece by piece, and shows what is broken. */
export function Verification({ onClose }: { onClose: () => void }) {
  const [last, setLast] = useState<Piece | undefined>();
  const [faults, setFaults] = useState<Schemas["AuditFault"][]>([]);
  const [error, setError] = useState<unknown>();
  const [run, setRun] = useState({ after: "", number: 0 });
  // biome-ignore lint/correctness/useExhaustiveDependencies: a run begins by its number
  useEffect(() => {
    const ended = new AbortController();
    const read = async () => {
      let after = run.after;
      try {
        do {
          const { data } = await api.GET("/v1/audit/verification", {
            params: { query: { limit: 2000, ...(after ? { after } : {}) } },
            signal: ended.signal,
          });
          const piece = data as Piece;
          setLast(piece);
          setFaults((was) => [...was, ...(piece.faults ?? [])]);
          after = piece.next ?? "";
        } while (after);
      } catch (failed) {
        if (ended.signal.aborted) return;
        setError(failed);
        setRun((was) => (was.after === after ? was : { ...was, after }));
      }
    };
    void read();
    return () => ended.abort();
  }, [run.number]);
  const done = last !== undefined && !last.next && error === undefined;
  const percent = last ? (last.total > 0 ? Math.min(100, (100 * last.verified) / last.total) : 100) : 0;
  return (
    <Paper withBorder p="md" component="section" aria-label="Verification of the chain">
      <Stack gap="xs">
        <Group justify="space-between">
          <Text size="sm" fw={600} role="status">
            {done
              ? faults.length === 0
                ? `Verified: ${last.verified.toLocaleString()} entries of ${last.chains.toLocaleString()} ${last.chains === 1 ? "chain" : "chains"}, each follows the one before`
                : `${faults.length} of ${last.chains.toLocaleString()} chains ${faults.length === 1 ? "is" : "are"} broken`
              : last
                ? `${last.verified.toLocaleString()} of ${last.total.toLocaleString()} entries, ${last.chains_verified} of ${last.chains} chains`
                : "Verifying"}
          </Text>
          <Button size="xs" variant="default" onClick={onClose}>
            {done ? "Close" : "Stop"}
          </Button>
        </Group>
        <Progress
          value={done ? 100 : percent}
          color={faults.length > 0 ? "red" : "teal"}
          aria-label="Entries verified"
          animated={!done && error === undefined}
        />
        {error !== undefined && (
          <Failure
            error={error}
            retry={() => {
              setError(undefined);
              setRun((was) => ({ ...was, number: was.number + 1 }));
            }}
          />
        )}
        {faults.map((f) => (
          <Alert
            key={`${f.chain} ${f.seq}`}
            color="red"
            title={f.chain ? `Chain of ${f.chain}` : "Chain of the platform"}
          >
            {f.seq !== undefined ? `Entry ${f.seq}: ` : "The end of the chain: "}
            {f.fault}
            {f.ended ? " A rollback of migrations has destroyed this chain." : ""}
            {f.entry && (
              <div>
                <Code>{f.entry.action}</Code> of {f.entry.kind} {f.entry.object}, <Time at={f.entry.at} />
              </div>
            )}
          </Alert>
        ))}
        <Text size="xs" c="dimmed">
          A chain that was rewritten as a whole is found by its checkpoints alone, which are stored elsewhere:{" "}
          <Code>iam-service audit verify --anchors</Code>
        </Text>
      </Stack>
    </Paper>
  );
}
