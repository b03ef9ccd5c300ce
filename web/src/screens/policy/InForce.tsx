import { Alert, Button, Group, Paper, SimpleGrid, Stack, Table, Text, Title } from "@mantine/core";
import { IconAlertTriangle, IconArrowBackUp } from "@tabler/icons-react";
import { type ReactNode, useState } from "react";
import { $api } from "../../api/client";
import { useCan } from "../../app/me";
import { Copy } from "../../components/Copy";
import { Json } from "../../components/Json";
import { Loaded } from "../../components/states";
import { Time } from "../../components/Time";
import { RollbackModal } from "./actions";
import { Actor, NotManaged, Revision } from "./words";

const Fact = ({ label, children }: { label: string; children: ReactNode }) => (
  <div>
    <Text size="xs" c="dimmed">
      {label}
    </Text>
    <Text size="sm" component="div">
      {children}
    </Text>
  </div>
);

/** What is active since when, by whom, and on which replica. */
export function InForce(_: { rest: string[] }) {
  const can = useCan();
  const [rollback, setRollback] = useState(false);
  const policy = $api.useQuery("get", "/v1/policy", {}, { refetchInterval: 5000 });
  return (
    <Loaded query={policy} rows={6}>
      {(p) => {
        const active = p.last_activation;
        const revisions = new Set(p.replicas.map((r) => r.revision));
        return (
          <Stack>
            <NotManaged policy={p} />
            {revisions.size > 1 && (
              <Alert
                color="yellow"
                icon={<IconAlertTriangle />}
                title="The replicas decide by different revisions"
                role="alert"
              >
                Within seconds of an activation that passes. If it stays, see below what a replica rejected.
              </Alert>
            )}
            <Paper withBorder p="md" component="section" aria-labelledby="in-force">
              <Group justify="space-between" mb="sm">
                <Title order={2} id="in-force">
                  Active
                </Title>
                {can("policy:rollback") && active && p.activation === "managed" && (
                  <Button
                    variant="default"
                    leftSection={<IconArrowBackUp size={16} />}
                    onClick={() => setRollback(true)}
                  >
                    Roll back
                  </Button>
                )}
              </Group>
              {active ? (
                <SimpleGrid cols={{ base: 1, xs: 2, md: 4 }}>
                  <Fact label="Revision">
                    <Copy value={active.digest} label="Copy the digest">
                      <Revision id={active.revision} name={active.name} />
                    </Copy>
                  </Fact>
                  <Fact label="Since">
                    <Time at={active.at} /> (<Time at={active.at} ago />)
                  </Fact>
                  <Fact label="By">
                    <Actor by={active.by} /> {active.kind === "source" ? "(by itself)" : `(${active.kind})`}
                  </Fact>
                  <Fact label="Reason">{active.reason || "none"}</Fact>
                </SimpleGrid>
              ) : (
                <Text size="sm">
                  No shared revision was activated: each replica has a policy of its own, see its source below.
                </Text>
              )}
              {p.shadow.revision && p.shadow.share > 0 && (
                <Text size="sm" mt="sm">
                  Shadow: <Revision id={p.shadow.revision} /> for {Math.round(p.shadow.share * 100)} % of requests.
                </Text>
              )}
            </Paper>
            <section aria-labelledby="replicas">
              <Title order={2} id="replicas" mb="xs">
                Replicas
              </Title>
              <Table.ScrollContainer minWidth={640}>
                <Table aria-label="Replicas">
                  <Table.Thead>
                    <Table.Tr>
                      <Table.Th>Replica</Table.Th>
                      <Table.Th>Active revision</Table.Th>
                      <Table.Th>Since</Table.Th>
                      <Table.Th>Can switch at once to</Table.Th>
                      <Table.Th>Last heartbeat</Table.Th>
                    </Table.Tr>
                  </Table.Thead>
                  <Table.Tbody>
                    {p.replicas.map((r) => (
                      <Table.Tr key={r.replica}>
                        <Table.Td>
                          {r.replica}
                          <Text size="xs" c="dimmed">
                            {r.version}
                          </Text>
                        </Table.Td>
                        <Table.Td>
                          <Revision id={r.revision} />
                          <Text size="xs" c="dimmed">
                            {r.source}
                          </Text>
                        </Table.Td>
                        <Table.Td>
                          <Time at={r.since} ago />
                        </Table.Td>
                        <Table.Td>
                          {(r.prepared ?? []).length === 0
                            ? "–"
                            : (r.prepared ?? []).map((x) => <Revision key={x} id={x} />)}
                        </Table.Td>
                        <Table.Td>
                          <Time at={r.seen_at} ago />
                          {r.refused ? (
                            <Stack gap={4} mt="xs">
                              <Text size="xs" fw={600}>
                                Rejected last:
                              </Text>
                              <Json value={r.refused} maxHeight={120} />
                            </Stack>
                          ) : null}
                        </Table.Td>
                      </Table.Tr>
                    ))}
                  </Table.Tbody>
                </Table>
              </Table.ScrollContainer>
              {p.replicas.length === 0 && <Text size="sm">No replica has sent a heartbeat lately.</Text>}
            </section>
            {rollback && <RollbackModal onClose={() => setRollback(false)} />}
          </Stack>
        );
      }}
    </Loaded>
  );
}
