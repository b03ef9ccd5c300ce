import {
  Alert,
  Anchor,
  Button,
  Checkbox,
  FileButton,
  Group,
  Progress,
  Stack,
  Text,
  Textarea,
  Title,
} from "@mantine/core";
import { useDeferredValue, useMemo, useRef, useState } from "react";
import { Link } from "wouter";
import { useChanged, usePagesCache } from "../../../api/changes";
import { api, save } from "../../../api/client";
import { isProblem } from "../../../api/problem";
import { type Column, DataTable } from "../../../components/DataTable";
import { newKey } from "../../../components/form";
import { Status } from "../../../components/Status";
import { Failure } from "../../../components/states";
import { useRoles } from "../roles/RolesSelect";
import {
  columns as csvColumns,
  csvOf,
  type Fault,
  type ImportRow,
  parseImport,
  reportOf,
  sendRows,
} from "./importRows";
import type { MemberBody } from "./MemberForm";

const example = "subject,issuer,roles,expires_at,attributes";
const batchPath = "/v1/tenants/{tenant}/members:batch";

const oneLine = { whiteSpace: "nowrap", overflow: "hidden", textOverflow: "ellipsis", display: "block" } as const;
const cell = (text: string, width: number) => (
  <span style={{ ...oneLine, maxWidth: width }} title={text}>
    {text || "–"}
  </span>
);
const faultsText = (faults: readonly Fault[]) =>
  faults.map((f) => (f.field ? `${f.field} ${f.detail}` : f.detail)).join("; ");
const identityOf = (r: ImportRow) => JSON.stringify([r.member.issuer ?? "", r.member.subject]);

/** The state of a row: its result where it was sent, otherwise whether it can be. */
const stateOf = (r: ImportRow, sent: boolean) =>
  r.result ?? (r.faults.length > 0 ? "invalid" : sent ? "not sent" : "valid");

/** Imports members from CSV or JSON: validated while the person types, sent in pieces, with a report of every row. */
export default function Import({ tenant }: { tenant: string }) {
  const roles = useRoles(tenant);
  const changed = useChanged();
  const pages = usePagesCache<MemberBody>("/v1/tenants/{tenant}/members");
  const [text, setText] = useState("");
  const [dropping, setDropping] = useState(false);
  const [onlyInvalid, setOnlyInvalid] = useState(false);
  const [leave, setLeave] = useState(false);
  // What was sent, with what became of it; while it is undefined, the text is a preview.
  const [sent, setSent] = useState<ImportRow[]>();
  const [done, setDone] = useState(0);
  const [running, setRunning] = useState(false);
  const [error, setError] = useState<unknown>();
  const [before, setBefore] = useState<ReadonlyMap<string, Fault[]>>(new Map());
  const stop = useRef(false);

  const given = useDeferredValue(text);
  const names = useMemo(
    () => (roles.data ? new Set((roles.data.items ?? []).map((r) => r.name)) : undefined),
    [roles.data],
  );
  const parsed = useMemo(() => parseImport(given, { roles: names, now: Date.now() }), [given, names]);
  const rows = sent ?? parsed.rows;
  const invalid = rows.filter((r) => r.faults.length > 0);
  const sendable = sent
    ? sent.filter((r) => r.result === undefined && r.faults.length === 0)
    : parsed.rows.filter((r) => r.faults.length === 0);
  const shown = onlyInvalid ? invalid : rows;

  const take = async (file: File | null) => {
    if (file) setText(await file.text());
  };

  const send = async () => {
    const all = sent ?? parsed.rows;
    setSent(all);
    setRunning(true);
    setError(undefined);
    setOnlyInvalid(false);
    stop.current = false;
    const count = () => setDone(all.filter((r) => r.result !== undefined).length);
    try {
      await sendRows({
        rows: all.filter((r) => r.result === undefined && r.faults.length === 0),
        post: async (members) => {
          const { data } = await api.POST(batchPath, {
            params: {
              path: { tenant },
              query: leave ? { leave_without_administrator: true } : {},
              header: { "Idempotency-Key": newKey() },
            },
            body: { members },
          });
          return data?.items ?? [];
        },
        progress: count,
        stopped: () => stop.current,
        wait: (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000)),
      });
    } catch (failed) {
      setError(failed);
    } finally {
      setRunning(false);
      count();
      void pages.reset();
      void changed("/v1/tenants/{tenant}/members/{user}", "/v1/users", "/v1/me");
    }
  };

  /** Begins again with the rows that were not stored, as text. */
  const correct = () => {
    const failed = rows.filter((r) => r.result === undefined || r.result === "invalid");
    setBefore(new Map(failed.filter((r) => r.faults.length > 0).map((r) => [identityOf(r), r.faults])));
    setText(
      /^\s*[[{]/.test(text)
        ? JSON.stringify(
            failed.map((r) => r.member),
            null,
            1,
          )
        : csvOf(failed),
    );
    setSent(undefined);
    setDone(0);
    setError(undefined);
  };

  const tableColumns: Column<ImportRow>[] = [
    { key: "at", header: "Row", cell: (r) => r.at, width: 70 },
    { key: "state", header: "State", cell: (r) => <Status value={stateOf(r, !!sent)} />, width: 110 },
    { key: "subject", header: "Subject", cell: (r) => cell(r.member.subject, 200) },
    {
      key: "wrong",
      header: "What is wrong",
      cell: (r) => {
        const earlier = sent ? undefined : before.get(identityOf(r));
        return r.faults.length > 0
          ? cell(faultsText(r.faults), 360)
          : cell(earlier ? `before: ${faultsText(earlier)}` : "", 360);
      },
    },
    { key: "roles", header: "Roles", cell: (r) => cell((r.member.roles ?? []).join(", "), 180) },
    { key: "ends", header: "Ends", cell: (r) => cell(r.cells.expires_at, 200) },
    { key: "attributes", header: "Attributes", cell: (r) => cell(r.cells.attributes, 200) },
    { key: "issuer", header: "Issuer", cell: (r) => cell(r.member.issuer ?? "", 200) },
  ];

  const counted = new Map<string, number>();
  for (const r of rows) counted.set(stateOf(r, !!sent), (counted.get(stateOf(r, !!sent)) ?? 0) + 1);
  const summary = [...counted].map(([state, n]) => `${n.toLocaleString()} ${state}`).join(", ");
  const finished = sent && !running;

  return (
    <Stack>
      <Group justify="space-between">
        <Title order={2}>Import members</Title>
        <Anchor component={Link} href={`/tenants/${tenant}/members`} size="sm">
          Back to the members
        </Anchor>
      </Group>
      {!sent && (
        <>
          <section
            aria-label="File or text"
            onDragOver={(e) => {
              e.preventDefault();
              setDropping(true);
            }}
            onDragLeave={() => setDropping(false)}
            onDrop={(e) => {
              e.preventDefault();
              setDropping(false);
              void take(e.dataTransfer.files[0] ?? null);
            }}
            style={{
              outline: dropping ? "2px dashed var(--mantine-color-anchor)" : undefined,
              outlineOffset: 4,
            }}
          >
            <Textarea
              label="CSV or JSON"
              description={
                <>
                  Paste it, drop a file here, or choose one. Columns: <code>{csvColumns.join(", ")}</code>; only subject
                  is mandatory. Roles are separated by spaces, attributes are a JSON object. Who is a member already is
                  replaced.
                </>
              }
              placeholder={`${example}\nann,,viewer editor,2030-12-31,"{""department"":""sales""}"`}
              rows={8}
              value={text}
              onChange={(e) => setText(e.currentTarget.value)}
              spellCheck={false}
              styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)", whiteSpace: "pre" } }}
            />
          </section>
          <Group>
            <FileButton onChange={(f) => void take(f)} accept=".csv,.tsv,.json,.jsonl,text/csv,application/json">
              {(props) => (
                <Button variant="default" {...props}>
                  Choose a file
                </Button>
              )}
            </FileButton>
            {text === "" && (
              <Button variant="subtle" onClick={() => save(`${example}\n`, "members.csv")}>
                Download a template
              </Button>
            )}
          </Group>
          {parsed.error && (
            <Alert color="red" variant="light" title="This cannot be read" role="alert">
              {parsed.error}
            </Alert>
          )}
        </>
      )}
      {rows.length > 0 && (
        <>
          {sent && (
            <Progress
              value={rows.length === 0 ? 0 : (100 * (done + invalid.filter((r) => !r.result).length)) / rows.length}
              aria-label="Progress of the import"
              animated={running}
            />
          )}
          {error !== undefined && <Failure error={error} />}
          {isProblem(error, "last_tenant_admin") && (
            <Checkbox
              label="Leave the tenant without an administrator"
              checked={leave}
              onChange={(e) => setLeave(e.currentTarget.checked)}
            />
          )}
          <Group justify="space-between">
            <Text size="sm" role="status">
              {summary}
            </Text>
            <Group gap="xs">
              {invalid.length > 0 && (
                <Checkbox
                  label="Only invalid rows"
                  checked={onlyInvalid}
                  onChange={(e) => setOnlyInvalid(e.currentTarget.checked)}
                />
              )}
              {running && (
                <Button
                  variant="default"
                  onClick={() => {
                    stop.current = true;
                  }}
                >
                  Stop
                </Button>
              )}
              {finished && (
                <Button variant="default" onClick={() => save(reportOf(rows), `import-${tenant}.csv`)}>
                  Download the report
                </Button>
              )}
              {finished && sendable.length > 0 && (
                <Button onClick={() => void send()}>Send the remaining {sendable.length.toLocaleString()}</Button>
              )}
              {finished && (invalid.length > 0 || sendable.length > 0) && (
                <Button variant={sendable.length > 0 ? "default" : "filled"} onClick={correct}>
                  Correct {(invalid.length + sendable.length).toLocaleString()}{" "}
                  {invalid.length + sendable.length === 1 ? "row" : "rows"}
                </Button>
              )}
              {!sent && (
                <Button onClick={() => void send()} disabled={sendable.length === 0 || given !== text}>
                  Import {sendable.length.toLocaleString()} {sendable.length === 1 ? "row" : "rows"}
                </Button>
              )}
              {finished && invalid.length === 0 && sendable.length === 0 && (
                <Button component={Link} href={`/tenants/${tenant}/members`}>
                  Show the members
                </Button>
              )}
            </Group>
          </Group>
          {!sent && invalid.length > 0 && (
            <Text size="sm" c="dimmed">
              Invalid rows are not sent. Correct them above, or import the others first.
            </Text>
          )}
          <DataTable
            label="Rows of the import"
            rows={shown}
            columns={tableColumns}
            rowKey={(r) => String(r.at)}
            maxHeight="50vh"
          />
        </>
      )}
    </Stack>
  );
}
