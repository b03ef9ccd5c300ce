import { useEffect, useRef, useState } from "react";
import { api } from "../../api/client";
import type { Decision } from "./rows";

const every = 2_000;
const bound = 500;
// Replicas store decisions in batches: one may appear after a later one.
const overlap = 10_000;

export interface Tail {
  rows: Decision[];
  /** Those of the last reading that had any. */
  fresh: ReadonlySet<string>;
  arrived: number;
  /** A reading found more than it could read. */
  skipped: boolean;
  error: unknown;
  loading: boolean;
}

const empty: Tail = { rows: [], fresh: new Set(), arrived: 0, skipped: false, error: undefined, loading: true };

/** The newest decisions that match, as they are stored: read each 2 s while `on`, at most 500 of them. */
export function useTail(query: object, on: boolean): Tail {
  const [tail, setTail] = useState<Tail>(empty);
  const key = JSON.stringify(query);
  const rows = useRef<Decision[]>([]);
  const of = useRef("");
  useEffect(() => {
    if (!on) return;
    if (of.current !== key) {
      of.current = key;
      rows.current = [];
      setTail(empty);
    }
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const poll = async () => {
      if (!document.hidden) {
        const newest = rows.current[0];
        const { from: _, to: __, ...filter } = JSON.parse(key) as Record<string, string>;
        const from = newest ? new Date(new Date(newest.at).getTime() - overlap).toISOString() : undefined;
        try {
          const { data } = await api.GET("/v1/decisions", {
            params: { query: { ...filter, ...(from ? { from } : {}), limit: newest ? 500 : 50 } },
            signal: ended.signal,
          });
          const known = new Set(rows.current.map((r) => r.decision));
          const added = (data?.items ?? []).filter((d) => !known.has(d.decision));
          if (added.length > 0)
            rows.current = [...added, ...rows.current].sort((a, b) => b.at.localeCompare(a.at)).slice(0, bound);
          setTail((was) => ({
            rows: rows.current,
            fresh: newest && added.length > 0 ? new Set(added.map((d) => d.decision)) : was.fresh,
            arrived: was.arrived + (newest || !was.loading ? added.length : 0),
            skipped: was.skipped || (newest !== undefined && !!data?.next),
            error: undefined,
            loading: false,
          }));
        } catch (error) {
          if (ended.signal.aborted) return;
          setTail((was) => ({ ...was, error, loading: false }));
        }
      }
      timer = setTimeout(() => void poll(), every);
    };
    void poll();
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, [key, on]);
  return tail;
}
