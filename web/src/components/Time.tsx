import { Tooltip } from "@mantine/core";
import { useEffect, useState } from "react";

const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const steps: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
];

function distance(at: number, now: number): string {
  const seconds = Math.round((at - now) / 1000);
  for (const [unit, length] of steps) {
    if (Math.abs(seconds) >= length || unit === "second") return relative.format(Math.trunc(seconds / length), unit);
  }
  return "";
}

/** A moment in the viewer's zone, with UTC on hover and focus. `ago` says how far it is from now. */
export function Time({ at, ago = false }: { at: string | undefined; ago?: boolean }) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!ago) return;
    const timer = setInterval(() => setNow(Date.now()), 10_000);
    return () => clearInterval(timer);
  }, [ago]);
  const moment = at ? new Date(at) : undefined;
  if (!moment || Number.isNaN(moment.getTime())) return <span>–</span>;
  const utc = moment.toISOString().replace("T", " ").replace("Z", " UTC");
  return (
    <Tooltip
      label={ago ? `${absolute.format(moment)} · ${utc}` : utc}
      events={{ hover: true, focus: true, touch: true }}
    >
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: keyboards reach the UTC time */}
      <time dateTime={moment.toISOString()} tabIndex={0} style={{ whiteSpace: "nowrap" }}>
        {ago ? distance(moment.getTime(), now) : absolute.format(moment)}
      </time>
    </Tooltip>
  );
}
