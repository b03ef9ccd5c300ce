import { Alert, Anchor, Badge, Button, Code, Group, Paper, Stack, Table, Text, Title } from "@mantine/core";
import { IconRefresh } from "@tabler/icons-react";
import { Link } from "wouter";
import { $api, type Schemas } from "../../api/client";
import { Empty, Loaded } from "../../components/states";
import { Time } from "../../components/Time";

type Difference = Schemas["DifferenceBody"];

const kinds: Record<Difference["kind"], string> = {
  missing: "Missing in the identity provider",
  changed: "Changed in the identity provider",
  not_deleted: "Deleted here, and still in the identity provider",
  orphan: "In the identity provider with our mark, and unknown here",
  not_ours: "The id belongs to a client of others",
  unmanaged: "Has settings that this service does not manage",
};

/** All clients, compared with the identity provider now: what it should be, what was confirmed last, what it is there. */
export function Drift() {
  const query = $api.useQuery("get", "/v1/clients/drift", {}, { staleTime: 30_000, retry: false });
  return (
    <Loaded query={query}>
      {(d) => (
        <Stack>
          <Group justify="space-between">
            <Text size="sm" c="dimmed" component="div">
              Compared <Time at={d.compared_at} />: {d.compared.toLocaleString()} managed clients
              {d.pending > 0 ? `, ${d.pending.toLocaleString()} pending and not compared` : ""};{" "}
              {d.foreign.toLocaleString()} of others, which are never changed
            </Text>
            <Button
              size="xs"
              variant="default"
              leftSection={<IconRefresh size={14} />}
              loading={query.isFetching}
              onClick={() => void query.refetch()}
            >
              Compare again
            </Button>
          </Group>
          {(d.differences ?? []).length === 0 ? (
            <Empty title="No drift">The identity provider has each client as it should be.</Empty>
          ) : (
            <>
              <Alert color="blue">
                Nothing is changed by looking. Where iam-service wins, its state is applied once two comparisons in the
                background have found the same difference.
              </Alert>
              {(d.differences ?? []).map((x) => (
                <One key={`${x.client_id} ${x.kind}`} of={x} />
              ))}
            </>
          )}
        </Stack>
      )}
    </Loaded>
  );
}

function Words({ of }: { of: string[] | null | undefined }) {
  if (of === undefined || of === null)
    return (
      <Text size="sm" c="dimmed">
        not known
      </Text>
    );
  if (of.length === 0)
    return (
      <Text size="sm" c="dimmed">
        none
      </Text>
    );
  return of.map((v) => (
    <Code key={v} display="block" w="fit-content" style={{ overflowWrap: "anywhere", whiteSpace: "normal" }}>
      {v}
    </Code>
  ));
}

function One({ of: x }: { of: Difference }) {
  const values = x.values ?? [];
  const wins = x.winner === "iam-service";
  const known = x.kind !== "orphan" && x.kind !== "not_ours";
  return (
    <Paper withBorder p="md" component="section" aria-label={`Client ${x.client_id}`}>
      <Stack gap="xs">
        <Group justify="space-between">
          <div>
            <Title order={2} fz="md">
              {kinds[x.kind] ?? x.kind}
            </Title>
            <Text size="sm" component="div" style={{ overflowWrap: "anywhere" }}>
              {known ? (
                <Anchor component={Link} href={`/clients/${encodeURIComponent(x.client_id)}`} size="sm">
                  {x.client_id}
                </Anchor>
              ) : (
                <code>{x.client_id}</code>
              )}
              {x.tenant ? ` of ${x.tenant}` : ""}
            </Text>
          </div>
          <Badge variant="light" color={wins ? "indigo" : "yellow"} c="var(--mantine-color-text)" tt="none">
            {wins ? "iam-service wins" : "an operator must decide"}
          </Badge>
        </Group>
        <Text size="sm" c="dimmed">
          {x.why}
        </Text>
        {values.length > 0 ? (
          // biome-ignore lint/a11y/noNoninteractiveTabindex: keyboards scroll it
          <section style={{ overflowX: "auto" }} tabIndex={0} aria-label={`Fields of ${x.client_id}`}>
            <Table aria-label={`Fields of ${x.client_id}`} verticalSpacing={4} miw={560}>
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>Field</Table.Th>
                  <Table.Th>Here{wins ? " (wins)" : ""}</Table.Th>
                  <Table.Th>Confirmed last</Table.Th>
                  <Table.Th>Identity provider</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {values.map((v) => (
                  <Table.Tr key={v.field} style={{ verticalAlign: "top" }}>
                    <Table.Th scope="row" fw={500}>
                      <Code>{v.field}</Code>
                    </Table.Th>
                    <Table.Td>
                      <Words of={v.desired} />
                    </Table.Td>
                    <Table.Td>
                      <Words of={v.confirmed} />
                    </Table.Td>
                    <Table.Td>
                      <Words of={v.provider} />
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </section>
        ) : (
          (x.fields ?? []).length > 0 && (
            <Text size="sm">
              Fields: <Code>{x.fields?.join(", ")}</Code>
            </Text>
          )
        )}
      </Stack>
    </Paper>
  );
}
