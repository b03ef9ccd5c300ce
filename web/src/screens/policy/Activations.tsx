import { Anchor, Badge, Button, Stack, Table } from "@mantine/core";
import { useState } from "react";
import { Link } from "wouter";
import { $api } from "../../api/client";
import { useCan } from "../../app/me";
import { Empty, Loaded } from "../../components/states";
import { Time } from "../../components/Time";
import { RollbackModal } from "./actions";
import { Actor, Revision } from "./words";

const words = { source: "by its source", activate: "activated", rollback: "rolled back" } as const;

/** What was active when, the newest first, with a way back to each. */
export function Activations(_: { rest: string[] }) {
  const can = useCan();
  const [back, setBack] = useState<string>();
  const query = $api.useQuery("get", "/v1/policy/activations", { params: { query: { limit: 100 } } });
  return (
    <Loaded query={query}>
      {({ items }) =>
        !items?.length ? (
          <Empty title="Nothing was activated yet">Upload a revision, preview it, and activate it.</Empty>
        ) : (
          <Stack>
            <Table.ScrollContainer minWidth={680}>
              <Table aria-label="Activations">
                <Table.Thead>
                  <Table.Tr>
                    <Table.Th>When</Table.Th>
                    <Table.Th>Revision</Table.Th>
                    <Table.Th>How</Table.Th>
                    <Table.Th>By</Table.Th>
                    <Table.Th>Reason</Table.Th>
                    <Table.Th>Preview</Table.Th>
                    <Table.Th aria-label="Actions" />
                  </Table.Tr>
                </Table.Thead>
                <Table.Tbody>
                  {items.map((a, i) => (
                    <Table.Tr key={a.seq}>
                      <Table.Td>
                        <Time at={a.at} />
                      </Table.Td>
                      <Table.Td>
                        <Revision id={a.revision} name={a.name} />{" "}
                        {i === 0 && (
                          <Badge variant="light" color="teal" c="var(--mantine-color-text)" tt="none">
                            active
                          </Badge>
                        )}
                      </Table.Td>
                      <Table.Td>{words[a.kind]}</Table.Td>
                      <Table.Td>
                        <Actor by={a.by} />
                      </Table.Td>
                      <Table.Td>{a.reason || "–"}</Table.Td>
                      <Table.Td>
                        {a.preview ? (
                          <Anchor component={Link} href={`/policy/previews/${a.preview}`} size="sm">
                            {a.preview.slice(0, 8)}
                          </Anchor>
                        ) : (
                          "–"
                        )}
                      </Table.Td>
                      <Table.Td ta="right">
                        {can("policy:rollback") && a.revision !== items[0]!.revision && (
                          <Button
                            size="compact-xs"
                            variant="default"
                            aria-label={`Roll back to ${a.revision}`}
                            onClick={() => setBack(a.revision)}
                          >
                            Roll back
                          </Button>
                        )}
                      </Table.Td>
                    </Table.Tr>
                  ))}
                </Table.Tbody>
              </Table>
            </Table.ScrollContainer>
            {back && <RollbackModal to={back} onClose={() => setBack(undefined)} />}
          </Stack>
        )
      }
    </Loaded>
  );
}
