import "@mantine/charts/styles.css";
import { BarChart } from "@mantine/charts";
import { Box } from "@mantine/core";
import type { Schemas } from "../../api/client";

const colors = ["indigo.6", "orange.6", "teal.6", "red.6", "grape.6", "yellow.6", "cyan.6", "gray.6"];
const most = colors.length - 1;
const label = new Intl.DateTimeFormat(undefined, {
  day: "2-digit",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});

/** Stacked bars: a code each, the rare ones together. The table has the same numbers. */
export default function DenialsChart({
  buckets,
  codes,
}: {
  buckets: NonNullable<Schemas["SummaryBody"]["buckets"]>;
  codes: string[];
}) {
  const named = codes.slice(0, most);
  const rest = codes.slice(most);
  const series = [...named, ...(rest.length > 0 ? ["other codes"] : [])];
  // Codes are the data's, so their keys are positions: a dot in a key would be a path for the chart.
  const data = buckets.map((b) => {
    const row: Record<string, string | number> = { at: label.format(new Date(b.at)) };
    named.forEach((code, i) => {
      row[`s${i}`] = b.codes?.[code] ?? 0;
    });
    if (rest.length > 0) row[`s${named.length}`] = rest.reduce((sum, code) => sum + (b.codes?.[code] ?? 0), 0);
    return row;
  });
  return (
    <Box role="img" aria-label={`Denials over time by code: ${series.join(", ")}. The table has the numbers.`}>
      <BarChart
        h={240}
        data={data}
        dataKey="at"
        type="stacked"
        withLegend
        series={series.map((name, i) => ({ name: `s${i}`, label: name, color: colors[i] ?? "gray.6" }))}
        barChartProps={{ accessibilityLayer: false }}
      />
    </Box>
  );
}
