import { Anchor } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "wouter";
import { api, type Schemas } from "../../api/client";
import { DataTable } from "../../components/DataTable";
import { Empty, Loaded } from "../../components/states";
import { Time } from "../../components/Time";
import { Card } from "./Overview";

const shown = 10;
const hour = 3_600_000;

/** Reads the newest entries of the audit. The API lists the oldest first, so the window begins short and grows. */
async function newest(tenant: string | undefined, signal: AbortSignal): Promise<Schemas["AuditBody"][]> {
  let entries: Schemas["AuditBody"][] = [];
  for (const window of [hour, 24 * hour, 30 * 24 * hour]) {
    const from = new Date(Date.now() - window).toISOString();
    entries = [];
    let after: string | undefined;
    for (let pages = 0; pages < 5; pages++) {
      const { data } = await api.GET("/v1/audit", {
        signal,
        params: { query: { from, limit: 500, ...(tenant ? { tenant } : {}), ...(after ? { after } : {}) } },
      });
      entries = [...entries, ...(data?.items ?? [])].slice(-shown);
      after = data?.next;
      if (!after) break;
    }
    if (entries.length >= shown || after) break;
  }
  return entries.reverse();
}

export function RecentChanges({ tenant }: { tenant?: string }) {
  const query = useQuery({
    queryKey: ["recent changes", tenant],
    queryFn: ({ signal }) => newest(tenant, signal),
    refetchInterval: 30_000,
  });
  return (
    <Card title="Recent changes">
      <Loaded query={query}>
        {(entries) =>
          entries.length === 0 ? (
            <Empty title="Nothing has changed in 30 days" />
          ) : (
            <DataTable
              label="Recent changes"
              rows={entries}
              rowKey={(e) => `${e.chain} ${e.seq}`}
              maxHeight="none"
              columns={[
                { key: "at", header: "When", cell: (e) => <Time at={e.at} ago /> },
                { key: "action", header: "Action", cell: (e) => e.action },
                { key: "object", header: "Of", cell: (e) => <Clipped>{e.object}</Clipped> },
                { key: "chain", header: "Tenant", cell: (e) => e.chain || "platform" },
                {
                  key: "actor",
                  header: "By",
                  cell: (e) => <Clipped>{[e.actor_kind, e.actor].filter(Boolean).join(" ")}</Clipped>,
                },
              ]}
            />
          )
        }
      </Loaded>
      <Anchor component={Link} href="/audit">
        All of the audit
      </Anchor>
    </Card>
  );
}

function Clipped({ children }: { children: string }) {
  return (
    <span
      title={children}
      style={{
        display: "block",
        maxWidth: 260,
        overflow: "hidden",
        textOverflow: "ellipsis",
        whiteSpace: "nowrap",
      }}
    >
      {children}
    </span>
  );
}
