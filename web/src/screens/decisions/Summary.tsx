import "@mantine/charts/styles.css";
import { BarChart } from "@mantine/charts";
import { Button, Group, Paper, Text } from "@mantine/core";
import type { Schemas } from "../../api/client";

const palette = ["red.6", "orange.6", "grape.6", "pink.6", "yellow.6"];

/** Decisions over time: allowed, and denied by code. Its numbers are text too, and choose a code. */
export default function Summary({
  summary,
  code,
  choose,
}: {
  summary: Schemas["SummaryBody"];
  code: string;
  choose: (code: string | undefined) => void;
}) {
  const buckets = summary.buckets ?? [];
  const totals = new Map<string, number>();
  let allowed = 0;
  let denied = 0;
  for (const b of buckets) {
    allowed += b.allowed;
    denied += b.denied;
    for (const [name, n] of Object.entries(b.codes)) totals.set(name, (totals.get(name) ?? 0) + n);
  }
  const codes = [...totals].sort((a, b) => b[1] - a[1]);
  const named = codes.slice(0, palette.length).map(([name]) => name);
  const day = summary.step_seconds >= 3600;
  const format = new Intl.DateTimeFormat(
    undefined,
    day ? { dateStyle: "short", timeStyle: "short" } : { timeStyle: "short" },
  );
  const data = buckets.map((b) => {
    const rest = Object.entries(b.codes).reduce((n, [name, count]) => n + (named.includes(name) ? 0 : count), 0);
    const point: Record<string, string | number> = { at: format.format(new Date(b.at)), allowed: b.allowed };
    for (const name of named) point[`code ${name}`] = b.codes[name] ?? 0;
    point.other = rest + Math.max(0, b.denied - Object.values(b.codes).reduce((n, c) => n + c, 0));
    return point;
  });
  const others = data.some((d) => Number(d.other) > 0);
  return (
    <Paper withBorder p="sm">
      <Group gap="xs" mb="xs">
        <Text size="sm">
          <b>{allowed.toLocaleString()}</b> allowed, <b>{denied.toLocaleString()}</b> denied
        </Text>
        {codes.slice(0, 8).map(([name, n]) => (
          <Button
            key={name}
            size="compact-xs"
            variant={name === code ? "filled" : "default"}
            aria-pressed={name === code}
            onClick={() => choose(name === code ? undefined : name)}
          >
            {name} · {n.toLocaleString()}
          </Button>
        ))}
      </Group>
      <div
        role="img"
        aria-label={`Decisions over time: ${allowed} allowed, ${denied} denied${codes.map(([name, n]) => `, ${n} ${name}`).join("")}`}
      >
        <BarChart
          h={140}
          data={data}
          dataKey="at"
          type="stacked"
          withLegend={false}
          gridAxis="y"
          tickLine="none"
          yAxisProps={{ allowDecimals: false, width: 40 }}
          xAxisProps={{ minTickGap: 40 }}
          barProps={{ isAnimationActive: false }}
          series={[
            { name: "allowed", label: "allowed", color: "teal.6" },
            ...named.map((name, i) => ({ name: `code ${name}`, label: name, color: palette[i]! })),
            ...(others ? [{ name: "other", label: "other denials", color: "gray.6" }] : []),
          ]}
        />
      </div>
    </Paper>
  );
}
