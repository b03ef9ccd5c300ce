import {
  Alert,
  Anchor,
  Badge,
  Box,
  Button,
  Group,
  Modal,
  Paper,
  SimpleGrid,
  Stack,
  Table,
  Text,
  Title,
} from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useSearchParams } from "wouter";
import { api } from "../../api/client";
import { useCan } from "../../app/me";
import { ExplanationTree } from "../../components/Explanation";
import { Loaded } from "../../components/states";
import { Time } from "../../components/Time";
import { Bars } from "./Bars";
import { byRule, byTenant, type Group as ChangeGroup, type Report, type Section, type Who } from "./report";
import { codesText, count, kindLabel, kinds } from "./words";

const sections = [
  { value: "directory", label: "Users and clients" },
  { value: "outsiders", label: "Who does not belong to the tenant" },
  { value: "replayed", label: "Recorded decisions" },
] as const;

/** Who would gain and lose what. */
export function ReportView({ report, id }: { report: Report; id: string }) {
  const [params, setParams] = useSearchParams();
  const has = sections.filter((s) => report[s.value]);
  const current = has.find((s) => s.value === params.get("section")) ?? has[0]!;
  const section = report[current.value]!;
  const kind = params.get("kind") ?? undefined;
  const rule = params.get("rule") ?? undefined;
  const tenant = params.get("tenant") ?? undefined;
  const [person, setPerson] = useState<Who & { title?: string }>();
  const choose = (change: Record<string, string | undefined>) =>
    setParams(
      (before) => {
        const next = new URLSearchParams(before);
        for (const [k, v] of Object.entries(change)) v === undefined ? next.delete(k) : next.set(k, v);
        return next;
      },
      { replace: true },
    );
  const total = kinds.reduce((n, k) => n + (section.counts[k.kind] ?? 0), 0);
  const groups = (section.groups ?? []).filter(
    (g) =>
      (!kind || g.kind === kind) &&
      (!rule || [...(g.before ?? []), ...(g.after ?? [])].includes(rule)) &&
      (!tenant || (g.sample ?? []).some((w) => w.tenant === tenant)),
  );
  return (
    <Stack>
      {has.length > 1 && (
        <Group gap="xs" role="group" aria-label="What was evaluated">
          {has.map((s) => (
            <Button
              key={s.value}
              size="xs"
              variant={s === current ? "filled" : "default"}
              aria-pressed={s === current}
              onClick={() => choose({ section: s.value, kind: undefined, rule: undefined, tenant: undefined })}
            >
              {s.label}
            </Button>
          ))}
        </Group>
      )}
      <Text size="sm" c="dimmed">
        {count(section.asked)} requests were decided by both revisions over the facts of <Time at={report.at} />, in{" "}
        {report.took}.
      </Text>
      <Notes report={report} section={section} />
      <SimpleGrid cols={{ base: 2, xs: 3, md: 4, lg: 7 }} spacing="xs">
        {kinds.map((k) => {
          const n = section.counts[k.kind] ?? 0;
          return (
            <Paper
              key={k.kind}
              withBorder
              p="xs"
              component="button"
              type="button"
              ta="left"
              aria-pressed={kind === k.kind}
              aria-label={`${k.label}: ${count(n)}, ${k.text}`}
              onClick={() => choose({ kind: kind === k.kind ? undefined : k.kind })}
              style={{
                cursor: "pointer",
                background: kind === k.kind ? "var(--mantine-primary-color-light)" : "transparent",
                color: "inherit",
              }}
            >
              <Group gap={6} wrap="nowrap">
                <Box w={10} h={10} bg={k.colour} style={{ borderRadius: 2, flex: "none" }} aria-hidden />
                <Text size="sm">{k.label}</Text>
              </Group>
              <Text fw={700} size="xl">
                {count(n)}
              </Text>
              <Text size="xs" c="dimmed">
                {k.text}
              </Text>
            </Paper>
          );
        })}
      </SimpleGrid>
      {total === 0 ? (
        <Text fw={600}>Nothing would change.</Text>
      ) : (
        <>
          <SimpleGrid cols={{ base: 1, md: 2 }}>
            <Bars
              title="By rule"
              note="Changes that a caller notices, by the rule that decides now or no longer does."
              rows={byRule(section)
                .slice(0, 12)
                .map((r) => ({
                  label: r.rule,
                  value: r.count,
                  onClick: () => choose({ rule: rule === r.rule ? undefined : r.rule }),
                }))}
            />
            <Bars
              title="By tenant"
              note={
                section.tenants_left_out
                  ? `${count(section.tenants_left_out)} further tenants are left out.`
                  : undefined
              }
              rows={byTenant(section)
                .slice(0, 12)
                .map((t) => ({
                  label: t.tenant || "without a tenant",
                  value: t.count,
                  onClick: () => choose({ tenant: tenant === t.tenant ? undefined : t.tenant }),
                }))}
            />
          </SimpleGrid>
          <section aria-labelledby="people">
            <Group justify="space-between" mb="xs">
              <Title order={3} id="people">
                People
              </Title>
              {(kind || rule || tenant) && (
                <Group gap="xs">
                  {[kind && kindLabel(kind), rule, tenant].filter(Boolean).map((f) => (
                    <Badge key={f as string} variant="light" c="var(--mantine-color-text)" tt="none">
                      {f}
                    </Badge>
                  ))}
                  <Button
                    size="compact-xs"
                    variant="default"
                    onClick={() => choose({ kind: undefined, rule: undefined, tenant: undefined })}
                  >
                    Show all
                  </Button>
                </Group>
              )}
            </Group>
            {groups.length === 0 ? (
              <Text size="sm">No sample of the report matches.</Text>
            ) : (
              <Table.ScrollContainer minWidth={620}>
                <Table aria-label="People" verticalSpacing="xs">
                  <Table.Thead>
                    <Table.Tr>
                      <Table.Th>Change</Table.Th>
                      <Table.Th>Before</Table.Th>
                      <Table.Th>After</Table.Th>
                      <Table.Th>How many</Table.Th>
                      <Table.Th>Who, for example</Table.Th>
                    </Table.Tr>
                  </Table.Thead>
                  <Table.Tbody>
                    {groups.map((g) => (
                      <GroupRow
                        key={`${g.kind} ${g.question} ${g.before} ${g.after} ${g.headers}`}
                        group={g}
                        tenant={tenant}
                        open={(w) => setPerson({ ...w, title: g.question })}
                      />
                    ))}
                  </Table.Tbody>
                </Table>
              </Table.ScrollContainer>
            )}
          </section>
        </>
      )}
      {person && <PersonModal key={id} who={person} report={report} onClose={() => setPerson(undefined)} />}
    </Stack>
  );
}

function Notes({ report, section }: { report: Report; section: Section }) {
  const notes = [
    report.lacking?.length &&
      `A policy reads ${report.lacking.join(", ")}, which the questions do not have: it denies them, request_facts_missing.`,
    section.slow && `${count(section.slow)} evaluations exceeded the time that a live request has.`,
    section.facts_changed &&
      `${count(section.facts_changed)} recorded decisions depend on facts that have changed since.`,
    section.not_replayable &&
      `${count(section.not_replayable)} recorded decisions lack input that a policy reads: ${(section.lacking ?? []).join(", ")}.`,
    section.groups_left_out &&
      `${count(section.groups_left_out)} changes are counted and not listed: they are too different.`,
  ].filter((n): n is string => !!n);
  if (notes.length === 0) return null;
  return (
    <Alert color="yellow" variant="light" title="Read the figures with this in mind">
      {notes.map((n) => (
        <Text size="sm" key={n}>
          {n}
        </Text>
      ))}
    </Alert>
  );
}

const whoText = (w: Who) => w.subject || w.client_id || "anonymous";

function GroupRow({ group: g, tenant, open }: { group: ChangeGroup; tenant?: string; open: (w: Who) => void }) {
  const sample = (g.sample ?? []).filter((w) => !tenant || w.tenant === tenant);
  return (
    <Table.Tr>
      <Table.Td>
        <Text size="sm" fw={600}>
          {kindLabel(g.kind)}
        </Text>
        {g.question && (
          <Text size="xs" c="dimmed">
            {g.question}
          </Text>
        )}
        {g.headers?.length ? (
          <Text size="xs" c="dimmed">
            {g.headers.join(", ")}
          </Text>
        ) : null}
      </Table.Td>
      <Table.Td>{codesText(g.before)}</Table.Td>
      <Table.Td>{codesText(g.after)}</Table.Td>
      <Table.Td>{count(g.count)}</Table.Td>
      <Table.Td>
        <Group gap="xs">
          {sample.map((w) => (
            <Anchor
              key={`${w.issuer} ${w.subject} ${w.client_id} ${w.tenant} ${w.decision}`}
              component="button"
              type="button"
              size="sm"
              onClick={() => open(w)}
            >
              {whoText(w)}
              {w.tenant ? ` in ${w.tenant}` : ""}
            </Anchor>
          ))}
        </Group>
      </Table.Td>
    </Table.Tr>
  );
}

/** The decision about one person under both revisions. */
function PersonModal({ who, report, onClose }: { who: Who; report: Report; onClose: () => void }) {
  const can = useCan();
  const explained = (revision: string) => ({
    queryKey: ["policy explain", revision, who],
    queryFn: async ({ signal }: { signal: AbortSignal }) => {
      const { data } = await api.POST("/v1/policy/explain", {
        signal,
        body: who.decision
          ? { decision: who.decision, revision }
          : {
              revision,
              ...(who.subject ? { subject: who.subject } : {}),
              ...(who.issuer ? { issuer: who.issuer } : {}),
              ...(who.client_id ? { client_id: who.client_id } : {}),
              ...(who.tenant ? { tenant: who.tenant } : {}),
            },
      });
      return data!;
    },
    staleTime: 30_000,
  });
  const before = useQuery(explained(report.against));
  const after = useQuery(explained(report.candidate));
  const href = `/policy/playground?${new URLSearchParams({
    revision: report.candidate,
    ...(who.decision ? { decision: who.decision } : {}),
    ...(who.subject ? { user: who.subject } : {}),
    ...(who.issuer ? { issuer: who.issuer } : {}),
    ...(who.client_id ? { client: who.client_id } : {}),
    ...(who.tenant ? { tenant: who.tenant } : {}),
  })}`;
  return (
    <Modal
      opened
      onClose={onClose}
      size="min(1200px, 96vw)"
      title={`${whoText(who)}${who.tenant ? ` in ${who.tenant}` : ""}`}
      closeButtonProps={{ "aria-label": "Close" }}
    >
      <Stack>
        <SimpleGrid cols={{ base: 1, md: 2 }}>
          {(
            [
              ["Before", report.against, before],
              ["After", report.candidate, after],
            ] as const
          ).map(([title, revision, q]) => (
            <section key={title} aria-label={`${title}: ${revision}`}>
              <Title order={3}>
                {title}: {revision}
              </Title>
              <Loaded query={q}>
                {(x) => (
                  <Stack gap="xs">
                    <Text fw={600}>
                      {x.allow ? "Allowed" : "Denied"}, {x.status}
                      {x.code ? `, ${x.code}` : ""}
                    </Text>
                    <ExplanationTree allow={x.allow} rules={x.rules ?? []} />
                  </Stack>
                )}
              </Loaded>
            </section>
          ))}
        </SimpleGrid>
        <Text size="xs" c="dimmed">
          Explained with the facts of now, which may have changed since the preview.
        </Text>
        {can("policy:evaluate") && (
          <Button component={Link} href={href} variant="default" style={{ alignSelf: "flex-start" }}>
            Open in the playground
          </Button>
        )}
      </Stack>
    </Modal>
  );
}
