// The filters of the decision log, which are in the URL.
import { useMemo, useState } from "react";
import { useSearchParams } from "wouter";
import { useMe } from "../../app/me";
import { useScope } from "../../app/scope";

export const ranges = [
  { value: "15m", label: "Last 15 minutes", seconds: 900 },
  { value: "1h", label: "Last hour", seconds: 3600 },
  { value: "24h", label: "Last 24 hours", seconds: 86_400 },
  { value: "7d", label: "Last 7 days", seconds: 7 * 86_400 },
  { value: "all", label: "All that are stored", seconds: 0 },
  { value: "between", label: "Between…", seconds: 0 },
];

export const names = ["subject", "client_id", "code", "outcome", "issuer"] as const;

/** What the URL says, and the query of the API that it means. `refresh` moves the relative ranges to now. */
export function useFilters() {
  const [search, setSearch] = useSearchParams();
  const { tenant, platform } = useScope();
  const me = useMe();
  const [now, setNow] = useState(Date.now);
  const text = search.toString();
  const range = search.get("range") ?? (search.get("from") || search.get("to") ? "between" : "24h");
  const query = useMemo(() => {
    const params = new URLSearchParams(text);
    const q: Record<string, string> = {};
    for (const name of names) {
      const value = params.get(name);
      if (value) q[name] = value;
    }
    const seconds = ranges.find((r) => r.value === range)?.seconds;
    if (seconds) q.from = new Date(now - seconds * 1000).toISOString();
    else if (range === "between") {
      for (const end of ["from", "to"]) {
        const value = params.get(end);
        if (value) q[end] = value;
      }
    }
    if (tenant) q.tenant = tenant;
    return q as { subject?: string; tenant?: string; outcome?: "allowed" | "denied"; from?: string; to?: string };
  }, [text, range, now, tenant]);
  const set = (changes: Record<string, string | undefined>) =>
    setSearch(
      (was) => {
        const next = new URLSearchParams(was);
        for (const [name, value] of Object.entries(changes)) {
          if (value) next.set(name, value);
          else next.delete(name);
        }
        return next;
      },
      { replace: true },
    );
  return {
    get: (name: string) => search.get(name) ?? "",
    set,
    range,
    query,
    tenant,
    platform,
    ready: me.isSuccess,
    refresh: () => setNow(Date.now()),
  };
}
