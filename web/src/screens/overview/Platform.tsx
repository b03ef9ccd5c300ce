import { Alert, Anchor, Group, List, SimpleGrid, Stack, Text } from "@mantine/core";
import { IconAlertTriangle, IconCircleCheck } from "@tabler/icons-react";
import type { ReactNode } from "react";
import { Link } from "wouter";
import { $api, type Schemas } from "../../api/client";
import { useCan } from "../../app/me";
import { useScope } from "../../app/scope";
import { DataTable } from "../../components/DataTable";
import { Loaded } from "../../components/states";
import { Time } from "../../components/Time";
import { Denials } from "./Denials";
import { faultsOf } from "./fleet";
import { Card } from "./Overview";
import { RecentChanges } from "./RecentChanges";

/** For administrators and auditors of the platform. Read again each 10 seconds while the page is visible. */
export function Platform() {
  const { tenant } = useScope();
  const can = useCan(tenant);
  const query = $api.useQuery("get", "/v1/overview", {}, { refetchInterval: 10_000 });
  return (
    <Stack gap="lg">
      <Loaded query={query}>{(o) => <State overview={o} />}</Loaded>
      {can("decision:list") && <Denials tenant={tenant} />}
      {can("audit:read") && <RecentChanges tenant={tenant} />}
    </Stack>
  );
}

function State({ overview: o }: { overview: Schemas["OverviewBody"] }) {
  const replicas = o.replicas ?? [];
  const faults = faultsOf(o);
  return (
    <>
      <Text size="sm" c="dimmed">
        As of <Time at={o.at} />
      </Text>
      {faults.length > 0 ? (
        <Alert color="yellow" icon={<IconAlertTriangle />} title="This needs a look" role="status">
          <List size="sm">
            {faults.map((f) => (
              <List.Item key={f}>{f}</List.Item>
            ))}
          </List>
        </Alert>
      ) : (
        <Group gap="xs" role="status">
          <IconCircleCheck size={18} aria-hidden />
          <Text size="sm">All replicas agree and are fresh, and nothing waits that should not.</Text>
        </Group>
      )}
      <SimpleGrid cols={{ base: 1, md: 3 }}>
        <Card title="Policy">
          {o.policy.revision ? (
            <Facts
              facts={[
                ["Revision", <code key="r">{o.policy.revision}</code>],
                ["Bundle", o.policy.name],
                ["Active since", <Time key="s" at={o.policy.since} />],
                ["By", o.policy.by ?? (o.policy.shared ? undefined : "each replica's own policy source")],
                ["Why", o.policy.reason],
              ]}
            />
          ) : (
            <Text size="sm">No policy is active: every request is denied.</Text>
          )}
          <Anchor component={Link} href="/policy">
            Policy
          </Anchor>
        </Card>
        <Card title="Outbox">
          <Facts
            facts={[
              ["Not yet published", o.outbox.pending.toLocaleString()],
              ["The oldest waits for", o.outbox.pending > 0 ? seconds(o.outbox.oldest_seconds) : undefined],
              ["Rejected by the bus", o.outbox.parked.toLocaleString()],
              ["Events are stored for", days(o.retention.events_seconds)],
              [
                "Decisions are stored for",
                o.retention.decisions_seconds ? days(o.retention.decisions_seconds) : "not at all",
              ],
            ]}
          />
        </Card>
        <Card title="Clients">
          <Facts
            facts={[
              ["Wait for the provider", o.clients.pending.toLocaleString()],
              ["The oldest waits for", o.clients.pending > 0 ? seconds(o.clients.oldest_seconds) : undefined],
              ["Rejected by the provider", o.clients.failed.toLocaleString()],
              ["Secret's rotation unknown", o.clients.secrets_unknown.toLocaleString()],
              [
                "Differ from the provider",
                o.clients.drift
                  ? `${o.clients.drift.differences.toLocaleString()} of ${o.clients.drift.compared.toLocaleString()} compared`
                  : "never compared",
              ],
              ["Compared", o.clients.drift ? <Time key="c" at={o.clients.drift.compared_at} ago /> : undefined],
            ]}
          />
          <Anchor component={Link} href="/clients">
            Clients
          </Anchor>
        </Card>
      </SimpleGrid>
      <Card title="Fleet">
        {replicas.length === 0 ? (
          <Text size="sm">No replica has sent a heartbeat in the last 30 seconds.</Text>
        ) : (
          <DataTable
            label="Replicas"
            rows={replicas}
            rowKey={(r) => r.replica}
            maxHeight={420}
            columns={[
              { key: "replica", header: "Replica", cell: (r) => r.replica },
              { key: "version", header: "Version", cell: (r) => r.version },
              {
                key: "revision",
                header: "Policy",
                cell: (r) =>
                  !r.revision ? "none" : r.revision === o.policy.revision ? r.revision : `${r.revision} (differs)`,
              },
              { key: "facts", header: "Facts", cell: (r) => freshness(r.facts) },
              {
                key: "p99",
                header: "Propagation p99",
                align: "right",
                cell: (r) => {
                  const p99 = r.facts?.propagation_p99_seconds;
                  return p99 === undefined ? "not measured" : `${Math.round(p99 * 1000)} ms`;
                },
              },
              {
                key: "changes",
                header: "Changes",
                align: "right",
                cell: (r) => r.facts?.changes.toLocaleString() ?? "–",
              },
              { key: "seen", header: "Heartbeat", cell: (r) => <Time at={r.seen_at} ago /> },
            ]}
          />
        )}
      </Card>
    </>
  );
}

function freshness(facts: Schemas["ReplicaFacts"] | undefined): string {
  if (!facts) return "not reported";
  if (facts.age_seconds === undefined) return `${facts.state}, never confirmed`;
  return `${facts.state}, confirmed ${seconds(facts.age_seconds)} before`;
}

const seconds = (n: number) => (n < 90 ? `${n.toFixed(n < 10 ? 1 : 0)} s` : `${Math.round(n / 60)} min`);
const days = (n: number) => (n < 172_800 ? `${Math.round(n / 3600)} hours` : `${Math.round(n / 86_400)} days`);

function Facts({ facts }: { facts: [string, ReactNode][] }) {
  return (
    <dl style={{ margin: 0, display: "grid", gridTemplateColumns: "auto 1fr", gap: "2px 12px" }}>
      {facts
        .filter(([, value]) => value !== undefined && value !== "")
        .map(([name, value]) => (
          <div key={name} style={{ display: "contents" }}>
            <Text component="dt" size="sm" c="dimmed">
              {name}
            </Text>
            <Text component="dd" size="sm" m={0} style={{ overflowWrap: "anywhere" }}>
              {value}
            </Text>
          </div>
        ))}
    </dl>
  );
}
