import { Alert, Button, Group, JsonInput, Stack, Text, TextInput } from "@mantine/core";
import { IconDownload } from "@tabler/icons-react";
import { type FormEvent, useState } from "react";
import { api, save } from "../../api/client";
import { DataTable } from "../../components/DataTable";
import { Empty, Failure } from "../../components/states";
import { Time } from "../../components/Time";
import { useParam } from "../tenants/params";
import { clipped, Who } from "./parts";

interface Line {
  type: "search" | "allowed" | "failed" | "end";
  kind?: string;
  user?: string;
  client_id?: string;
  issuer?: string;
  subject?: string;
  codes?: string[];
  error?: string;
  revision?: string;
  as_of?: string;
  exact?: string;
  as_asked?: string;
  not_included?: string;
  asked?: number;
  allowed?: number;
  failed?: number;
  complete?: boolean;
  next?: string;
}

const cell = (text: string) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
/** A cell that a spreadsheet would take for a formula begins with an apostrophe, as in the exports of the API. */
const csv = (text: string) => cell(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);

/** Evaluates one request for each member and client of the tenant, by the active policy. */
export function RequestSearch({ tenant }: { tenant: string }) {
  const [method, setMethod] = useParam("method");
  const [path, setPath] = useParam("path");
  const [host, setHost] = useParam("host");
  const [token, setToken] = useState("");
  const [lines, setLines] = useState<Line[]>();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  let claims: Record<string, unknown> | undefined;
  let invalid = "";
  try {
    if (token.trim()) claims = JSON.parse(token) as Record<string, unknown>;
    if (claims !== undefined && (typeof claims !== "object" || claims === null || Array.isArray(claims)))
      invalid = 'An object is expected, like {"groups": ["sales"]}';
  } catch {
    invalid = "This is not JSON";
  }
  const ask = async (after?: string) => {
    setBusy(true);
    setError(undefined);
    try {
      const { data } = await api.POST("/v1/access/search", {
        body: {
          tenant,
          limit: 10_000,
          request: { method: method || "GET", path: path || "/", ...(host ? { host } : {}) },
          ...(claims ? { token: claims } : {}),
          ...(after ? { after } : {}),
          // biome-ignore lint/suspicious/noExplicitAny: claims are any JSON, which the generated type does not say
        } as any,
        parseAs: "text",
      });
      const read = String(data)
        .split("\n")
        .filter((l) => l.trim() !== "")
        .map((l) => JSON.parse(l) as Line);
      if (read.at(-1)?.type !== "end") throw new Error("The response was cut off. Ask again.");
      setLines((before) => (after && before ? [...before.filter((l) => l.type !== "end"), ...read] : read));
    } catch (failed) {
      setError(failed);
    }
    setBusy(false);
  };
  const submit = (e: FormEvent) => {
    e.preventDefault();
    setLines(undefined);
    void ask();
  };
  const first = lines?.find((l) => l.type === "search");
  const end = lines?.findLast((l) => l.type === "end");
  const subjects = (lines ?? []).filter((l) => l.type === "allowed" || l.type === "failed");
  const sum = (field: "asked" | "allowed" | "failed") =>
    (lines ?? []).reduce(
      (n, l) => n + (l.type === "allowed" || l.type === "failed" ? 0 : ((l[field] as number) ?? 0)),
      0,
    );
  // The end of a search that goes on counts its own part.
  const asked = sum("asked");
  return (
    <Stack>
      <form onSubmit={submit}>
        <Stack gap="xs">
          <Group align="flex-end" gap="xs">
            <TextInput
              label="Method"
              placeholder="GET"
              value={method}
              onChange={(e) => setMethod(e.currentTarget.value.toUpperCase())}
              w={100}
            />
            <TextInput
              label="Path"
              placeholder="/invoices/1"
              value={path}
              onChange={(e) => setPath(e.currentTarget.value)}
              w={{ base: "100%", xs: 280 }}
            />
            <TextInput
              label="Host"
              placeholder="any"
              value={host}
              onChange={(e) => setHost(e.currentTarget.value)}
              w={200}
            />
            <Button type="submit" loading={busy} disabled={invalid !== ""}>
              Ask
            </Button>
          </Group>
          <JsonInput
            label="Claims of each subject's token, as JSON"
            placeholder='{"groups": ["night-shift"]}'
            value={token}
            onChange={setToken}
            error={invalid || undefined}
            autosize
            minRows={1}
            maxRows={8}
          />
        </Stack>
      </form>
      {error !== undefined && <Failure error={error} retry={() => void ask()} />}
      {first && end && (
        <>
          <Text size="sm" role="status">
            Policy {first.revision} lets in {subjects.filter((s) => s.type === "allowed").length.toLocaleString()} of{" "}
            {asked.toLocaleString()} members and clients, as of <Time at={first.as_of} />. Not included:{" "}
            {first.not_included}.
          </Text>
          {subjects.some((s) => s.type === "failed") && (
            <Alert color="yellow" title="Not everything is known">
              The evaluation of some subjects failed: whether they are let in is not known.
            </Alert>
          )}
          <Group gap="xs">
            <Button
              size="xs"
              variant="default"
              leftSection={<IconDownload size={14} />}
              onClick={() =>
                save(
                  [
                    "type,kind,issuer,subject,user,client_id,codes,error,as_of",
                    ...subjects.map((s) =>
                      [
                        s.type,
                        s.kind,
                        s.issuer,
                        s.subject,
                        s.user,
                        s.client_id,
                        s.codes?.join(" "),
                        s.error,
                        first.as_of,
                      ]
                        .map((v) => csv(v ?? ""))
                        .join(","),
                    ),
                  ].join("\r\n"),
                  `${tenant}-let-in.csv`,
                )
              }
            >
              CSV
            </Button>
            <Button
              size="xs"
              variant="default"
              onClick={() =>
                save(
                  (lines ?? [])
                    .map((l) => JSON.stringify(l))
                    .join("\n")
                    .concat("\n"),
                  `${tenant}-let-in.jsonl`,
                )
              }
            >
              JSON lines
            </Button>
          </Group>
          {subjects.length === 0 ? (
            <Empty title="The policy lets nobody in on this request" />
          ) : (
            <DataTable
              label="Whom the request lets in"
              rows={subjects}
              rowKey={(s) => `${s.kind} ${s.user} ${s.client_id} ${s.issuer}`}
              maxHeight="50vh"
              columns={[
                { key: "who", header: "Who", cell: (s) => <Who of={s} tenant={tenant} /> },
                {
                  key: "result",
                  header: "Decision",
                  cell: (s) => (s.type === "failed" ? `not known: ${s.error}` : "allowed"),
                },
                { key: "codes", header: "By", cell: (s) => (s.codes ?? []).join(", ") },
                {
                  key: "issuer",
                  header: "Issuer",
                  cell: (s) => <span style={{ ...clipped, maxWidth: 260 }}>{s.issuer}</span>,
                },
              ]}
            />
          )}
          {end.next && (
            <Button variant="default" loading={busy} onClick={() => void ask(end.next)}>
              Ask about more
            </Button>
          )}
        </>
      )}
    </Stack>
  );
}
