import { Badge, Button, Code, Group, List, Stack, Table, Tabs, Text, ThemeIcon, Title } from "@mantine/core";
import { IconCheck, IconX } from "@tabler/icons-react";
import type { UseQueryResult } from "@tanstack/react-query";
import { useState } from "react";
import type { Schemas } from "../../api/client";
import { ExplanationTree } from "../../components/Explanation";
import { Json } from "../../components/Json";
import { Failure } from "../../components/states";
import type { Evaluated } from "./contract";

type Explanation = Schemas["ExplanationBody"];

/** Headers that are another for each decision or revision. */
const always = new Set(["x-decision-id", "x-policy-revision"]);

export interface HeaderChange {
  name: string;
  active?: string;
  draft?: string;
  changed: boolean;
}

export function compareHeaders(
  active: Record<string, string> | undefined,
  draft: Record<string, string> | undefined,
): HeaderChange[] {
  return [...new Set([...Object.keys(active ?? {}), ...Object.keys(draft ?? {})])]
    .filter((name) => !always.has(name.toLowerCase()))
    .sort()
    .map((name) => ({
      name,
      active: active?.[name],
      draft: draft?.[name],
      changed: active !== undefined && (active[name] ?? "") !== (draft?.[name] ?? ""),
    }));
}

const outcome = (x: { allow: boolean; status: number; code?: string }) =>
  `${x.allow ? "Allowed" : "Denied"}, ${x.status}${x.code ? `, ${x.code}` : ""}`;

/** What the draft decides, next to what the active policy decides. */
export function Result({
  result,
  active,
  asked,
  saveCase,
}: {
  result: Evaluated;
  active: UseQueryResult<Explanation, unknown>;
  asked: boolean;
  saveCase: (yaml: string) => void;
}) {
  const [tab, setTab] = useState<string | null>("why");
  const d = result.decision;
  const failed = result.cases?.filter((c) => !c.passed).length ?? 0;
  const headers = d ? compareHeaders(active.data?.headers, d.headers) : [];
  const changed =
    d &&
    active.data &&
    (d.allow !== active.data.allow || d.status !== active.data.status || headers.some((h) => h.changed));
  return (
    <Stack gap="xs">
      {!result.compiled && (
        <Text size="sm" fw={600}>
          The draft does not compile: {result.errors.length} {result.errors.length === 1 ? "error" : "errors"}, listed
          below the editor.
        </Text>
      )}
      {result.compiled && !asked && (
        <Text size="sm">The draft compiles. Name a user, a client, a token or a decision to see what it decides.</Text>
      )}
      {d && (
        <>
          <Group gap="xs" role="status" aria-label="Decision of the draft">
            <ThemeIcon color={d.allow ? "teal.8" : "red.8"} radius="xl" size="md" aria-hidden>
              {d.allow ? <IconCheck size={16} /> : <IconX size={16} />}
            </ThemeIcon>
            <Text fw={700} size="lg">
              {outcome(d)}
            </Text>
            {d.tenant && <Text size="sm">in tenant {d.tenant}</Text>}
          </Group>
          {result.explanation?.detail && <Text size="sm">{result.explanation.detail}</Text>}
          {active.data && (
            <Text size="sm">
              Active policy: {outcome(active.data)}.{" "}
              <Text span fw={600}>
                {changed ? "The draft changes this." : "The draft changes nothing here."}
              </Text>
            </Text>
          )}
          {active.isError && <Failure error={active.error} />}
          {headers.length > 0 && (
            <Table.ScrollContainer minWidth={360}>
              <Table aria-label="Headers that the gateway receives" verticalSpacing={3} layout="fixed">
                <Table.Thead>
                  <Table.Tr>
                    <Table.Th>Header</Table.Th>
                    <Table.Th>Draft</Table.Th>
                    <Table.Th>Active policy</Table.Th>
                  </Table.Tr>
                </Table.Thead>
                <Table.Tbody>
                  {headers.map((h) => (
                    <Table.Tr key={h.name}>
                      <Table.Th scope="row" fw={500}>
                        {h.name}{" "}
                        {h.changed && (
                          <Badge size="sm" variant="light" color="yellow" c="var(--mantine-color-text)" tt="none">
                            changed
                          </Badge>
                        )}
                      </Table.Th>
                      <Table.Td style={{ overflowWrap: "anywhere" }}>{h.draft || "–"}</Table.Td>
                      <Table.Td style={{ overflowWrap: "anywhere" }}>{active.data ? h.active || "–" : "?"}</Table.Td>
                    </Table.Tr>
                  ))}
                </Table.Tbody>
              </Table>
            </Table.ScrollContainer>
          )}
        </>
      )}
      {result.compiled && (
        <Tabs value={tab} onChange={setTab} keepMounted={false}>
          <Tabs.List>
            <Tabs.Tab value="why">Why</Tabs.Tab>
            <Tabs.Tab value="facts">Facts {result.facts.length}</Tabs.Tab>
            <Tabs.Tab value="input">Input</Tabs.Tab>
            <Tabs.Tab value="cases">
              Cases {result.cases ? (failed > 0 ? `${failed} failed` : `${result.cases.length} passed`) : ""}
            </Tabs.Tab>
          </Tabs.List>
          <Tabs.Panel value="why" pt="xs">
            {result.explanation ? (
              <ExplanationTree allow={result.explanation.allow} rules={result.explanation.rules ?? []} />
            ) : (
              <Text size="sm">Nothing was asked.</Text>
            )}
          </Tabs.Panel>
          <Tabs.Panel value="facts" pt="xs">
            {result.facts.length === 0 ? (
              <Text size="sm">The policy read no document of the directory.</Text>
            ) : (
              <Stack gap="xs">
                {result.facts.map((f) => (
                  <div key={f.path}>
                    <Code>{f.path}</Code>
                    {f.found ? (
                      <Json value={f.value} maxHeight={160} />
                    ) : (
                      <Text size="sm" c="dimmed">
                        There is no such document.
                      </Text>
                    )}
                  </div>
                ))}
              </Stack>
            )}
          </Tabs.Panel>
          <Tabs.Panel value="input" pt="xs">
            {result.input === undefined ? <Text size="sm">Nothing was asked.</Text> : <Json value={result.input} />}
            {(result.masked ?? []).length > 0 && (
              <Text size="xs" c="dimmed">
                Not shown, since it may be a secret: {result.masked!.join(", ")}
              </Text>
            )}
          </Tabs.Panel>
          <Tabs.Panel value="cases" pt="xs">
            <Cases cases={result.cases ?? []} />
          </Tabs.Panel>
        </Tabs>
      )}
      {d &&
        (result.case?.yaml ? (
          <Button
            variant="default"
            size="xs"
            style={{ alignSelf: "flex-start" }}
            onClick={() => saveCase(result.case!.yaml!)}
          >
            Save as acceptance case
          </Button>
        ) : (
          result.case?.reason && (
            <Text size="xs" c="dimmed">
              No acceptance case can hold this: {result.case.reason}
            </Text>
          )
        ))}
    </Stack>
  );
}

function Cases({ cases }: { cases: NonNullable<Evaluated["cases"]> }) {
  if (cases.length === 0) return <Text size="sm">The draft has no acceptance cases.</Text>;
  const sorted = [...cases].sort((a, b) => Number(a.passed) - Number(b.passed));
  return (
    <List size="sm" spacing={4} listStyleType="none">
      {sorted.map((c) => (
        <List.Item key={`${c.file} ${c.name}`}>
          <Text span size="sm" fw={600}>
            {c.passed ? "passed" : "FAILED"}
          </Text>{" "}
          {c.name}
          {!c.passed && (
            <Text size="xs" c="dimmed">
              {c.file}: {c.why} {c.got && <Code>{c.got}</Code>}
            </Text>
          )}
        </List.Item>
      ))}
    </List>
  );
}

export const Heading = ({ id, children }: { id: string; children: string }) => (
  <Title order={2} id={id} size="h4" mb="xs">
    {children}
  </Title>
);
