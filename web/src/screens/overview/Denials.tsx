import { Anchor, Group, SegmentedControl, Select, Text } from "@mantine/core";
import { lazy, Suspense } from "react";
import { Link } from "wouter";
import { $api, type Schemas } from "../../api/client";
import { isProblem } from "../../api/problem";
import { DataTable } from "../../components/DataTable";
import { Empty, Loaded, Loading } from "../../components/states";
import { Time } from "../../components/Time";
import { useParam } from "../tenants/params";
import { Card } from "./Overview";

const Chart = lazy(() => import("./DenialsChart"));

const windows = [
  { value: "1", label: "The last hour" },
  { value: "24", label: "The last day" },
  { value: "72", label: "The last 3 days" },
];

/** The end of the window, rounded, so that the query is the same for half a minute. */
const end = () => Math.ceil(Date.now() / 30_000) * 30_000;

/** Denials by code over time, as bars or as a table. */
export function Denials({ tenant }: { tenant?: string }) {
  const [hours, setHours] = useParam("hours");
  const [as, setAs] = useParam("as");
  const window = windows.some((w) => w.value === hours) ? Number(hours) : 1;
  const query = $api.useQuery(
    "get",
    "/v1/decisions/summary",
    {
      params: {
        query: {
          ...(tenant ? { tenant } : {}),
          from: new Date(end() - window * 3_600_000).toISOString(),
          step: window * 60,
        },
      },
    },
    { refetchInterval: 30_000, placeholderData: (before) => before },
  );
  const off = isProblem(query.error, 409);
  return (
    <Card title="Denials">
      {off ? (
        <Empty title="Decisions are not recorded">
          This service stores no decisions, so it cannot count them. Whoever runs it sets{" "}
          <code>DECISIONS_DATABASE_URL</code>.
        </Empty>
      ) : (
        <>
          <Group gap="xs">
            <Select
              aria-label="Window"
              data={windows}
              value={String(window)}
              onChange={(w) => setHours(!w || w === "1" ? "" : w)}
              allowDeselect={false}
              size="xs"
            />
            <SegmentedControl
              aria-label="Show denials as"
              size="xs"
              data={[
                { value: "chart", label: "Chart" },
                { value: "table", label: "Table" },
              ]}
              value={as === "table" ? "table" : "chart"}
              onChange={(v) => setAs(v === "table" ? v : "")}
            />
          </Group>
          <Loaded query={query}>{(summary) => <Counts summary={summary} table={as === "table"} />}</Loaded>
          <Anchor component={Link} href="/decisions?outcome=denied">
            Denied decisions
          </Anchor>
        </>
      )}
    </Card>
  );
}

function Counts({ summary, table }: { summary: Schemas["SummaryBody"]; table: boolean }) {
  const buckets = summary.buckets ?? [];
  const totals = new Map<string, number>();
  let allowed = 0;
  let denied = 0;
  for (const b of buckets) {
    allowed += b.allowed;
    denied += b.denied;
    for (const [code, n] of Object.entries(b.codes ?? {})) totals.set(code, (totals.get(code) ?? 0) + n);
  }
  const codes = [...totals].sort((a, b) => b[1] - a[1]);
  if (allowed + denied === 0) return <Empty title="There were no decisions in this time" />;
  return (
    <>
      <Text size="sm" role="status">
        {denied.toLocaleString()} of {(allowed + denied).toLocaleString()} recorded decisions were denied
        {codes.length > 0 && `: ${codes.map(([c, n]) => `${c} ${n.toLocaleString()}`).join(", ")}`}.
      </Text>
      {table ? (
        <DataTable
          label="Denials over time"
          maxHeight={320}
          rows={buckets.filter((b) => b.allowed + b.denied > 0)}
          rowKey={(b) => b.at}
          columns={[
            { key: "at", header: "From", cell: (b) => <Time at={b.at} /> },
            { key: "allowed", header: "Allowed", align: "right", cell: (b) => b.allowed.toLocaleString() },
            { key: "denied", header: "Denied", align: "right", cell: (b) => b.denied.toLocaleString() },
            {
              key: "codes",
              header: "Codes",
              cell: (b) =>
                Object.entries(b.codes ?? {})
                  .map(([c, n]) => `${c} ${n}`)
                  .join(", "),
            },
          ]}
        />
      ) : (
        denied > 0 && (
          <Suspense fallback={<Loading rows={6} />}>
            <Chart buckets={buckets} codes={codes.map(([c]) => c)} />
          </Suspense>
        )
      )}
    </>
  );
}
