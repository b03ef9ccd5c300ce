import { Group, Stack, Text } from "@mantine/core";
import { useMemo } from "react";
import { Link } from "wouter";
import type { Schemas } from "../../api/client";
import { usePages } from "../../api/pages";
import { useCan } from "../../app/me";
import { PagedTable } from "../../components/DataTable";
import { Empty } from "../../components/states";
import { useParam } from "../tenants/params";
import { clipped, Export, Moment, Who } from "./parts";

/** Who gained and lost what between two moments, and which entries of the audit did it. */
export function Changes({ tenant }: { tenant: string }) {
  const can = useCan(tenant);
  const [fromParam, setFrom] = useParam("from");
  const [to, setTo] = useParam("to");
  const dayAgo = useMemo(() => new Date(Date.now() - 86_400_000).toISOString(), []);
  const from = fromParam || dayAgo;
  const query = usePages("/v1/tenants/{tenant}/access/changes", {
    params: { path: { tenant }, query: { from, ...(to ? { to } : {}) } },
  });
  const search = new URLSearchParams({ from, ...(to ? { to } : {}) });
  return (
    <Stack>
      <Group align="flex-end" gap="xs">
        <Moment label="From" value={from} onChange={setFrom} />
        <Moment label="To (empty: now)" value={to} onChange={setTo} />
        <Export
          path={`/v1/tenants/${encodeURIComponent(tenant)}/access/changes?${search}`}
          name={`${tenant}-access-changes`}
        />
        {can("audit:read") && (
          <Text size="sm" mb={6}>
            <Link href={`/audit?${new URLSearchParams({ tenant, from, ...(to ? { until: to } : {}) })}`}>
              The audit of this time
            </Link>
          </Text>
        )}
      </Group>
      <PagedTable
        label="Changes of access"
        query={query}
        rowHeight={62}
        rowKey={(c) => `${c.kind} ${c.user} ${c.client_id} ${c.claim} ${c.value} ${c.issuer}`}
        maxHeight="58vh"
        columns={[
          { key: "who", header: "Who", cell: (c) => <Who of={c} tenant={tenant} /> },
          { key: "gained", header: "Gained", cell: (c) => <Names names={c.gained} /> },
          { key: "lost", header: "Lost", cell: (c) => <Names names={c.lost} /> },
          {
            key: "cause",
            header: "By",
            cell: (c) => (
              <span style={{ ...clipped, maxWidth: 340 }} title={causes(c)}>
                {causes(c)}
              </span>
            ),
          },
        ]}
        empty={<Empty title="Nobody gained or lost anything in this time" />}
      />
    </Stack>
  );
}

function Names({ names }: { names: Schemas["AccessNames"] }) {
  const roles = (names.roles ?? []).join(", ");
  const permissions = (names.permissions ?? []).join(", ");
  if (!roles && !permissions) return <span>nothing</span>;
  return (
    <span title={`${roles}\n${permissions}`}>
      {roles && <span style={{ ...clipped, maxWidth: 260 }}>roles {roles}</span>}
      {permissions && <span style={{ ...clipped, maxWidth: 260 }}>permissions {permissions}</span>}
    </span>
  );
}

const causes = (c: Schemas["AccessChangeBody"]) =>
  [
    ...(c.entries ?? []).map((e) => `${e.action} ${e.object} by ${e.actor_kind} ${e.actor}`.trim()),
    ...(c.by_time ? ["its time began or ended"] : []),
  ].join("; ");
