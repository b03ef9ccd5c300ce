import { Alert, Anchor, Button, Code, Group, Paper, SimpleGrid, Stack, Table, Text, Title } from "@mantine/core";
import { IconFileCode } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { Link, useParams } from "wouter";
import { $api, api, type Schemas } from "../../api/client";
import { isProblem } from "../../api/problem";
import { useCan, useMe } from "../../app/me";
import { useScope } from "../../app/scope";
import { Copy } from "../../components/Copy";
import { ExplanationTree } from "../../components/Explanation";
import { duration } from "../../components/form";
import { Json } from "../../components/Json";
import { Page } from "../../components/Page";
import { Empty, Loaded } from "../../components/states";
import { Time } from "../../components/Time";
import { type Decision as DecisionBody, Outcome, short, Who } from "./rows";

/** The part of OPA's decision log that the page shows. */
interface Event {
  input?: { token?: Record<string, unknown>; request?: Record<string, unknown>; [name: string]: unknown };
  result?: {
    status?: number;
    tenant?: string;
    headers?: Record<string, string>;
    reasons?: { code?: string; title?: string }[];
  };
  erased?: string[];
  custom?: { facts?: Schemas["Fact"][]; policy_name?: string; repeated?: boolean; hits?: number };
  metrics?: Record<string, number>;
  trace_id?: string;
}

/**
 * The decision, and the tenant in whose name it was read. A person of several tenants need not know whose it is: a link to it
 * comes from a gateway.
 */
function useDecision(decision: string) {
  const me = useMe();
  const { tenant, platform } = useScope();
  const own = (me.data?.tenants ?? []).map((t) => t.tenant).filter((t) => t !== tenant);
  const tenants = platform || !tenant ? [undefined] : [tenant, ...own.slice(0, 20)];
  return useQuery({
    queryKey: ["decision", decision, tenants.join()],
    enabled: me.isSuccess,
    staleTime: Number.POSITIVE_INFINITY, // it never changes
    queryFn: async () => {
      let failed: unknown;
      for (const within of tenants) {
        try {
          const { data } = await api.GET("/v1/decisions/{decision}", {
            params: { path: { decision }, query: within ? { tenant: within } : {} },
          });
          return { decision: data as DecisionBody, within };
        } catch (error) {
          failed ??= error;
          if (!isProblem(error, 403, 404)) throw error;
        }
      }
      throw failed;
    },
  });
}

export default function Decision() {
  const id = decodeURIComponent(useParams().decision ?? "");
  const query = useDecision(id);
  const path = [{ label: "Decisions", to: "/decisions" }];
  if (isProblem(query.error, "decisions_off"))
    return (
      <Page title="Decision" path={path}>
        <Empty title="Decisions are not stored here">
          Set <Code>DECISIONS_DATABASE_URL</Code> to explain a decision by its id.
        </Empty>
      </Page>
    );
  if (isProblem(query.error, 404))
    return (
      <Page title="Decision" path={path}>
        <Empty title="There is no such decision, or not one that you can see">
          Decisions are stored for a limited time, and a sample of the cache hits alone is. A new one appears within a
          second or two.
          <Group justify="center" mt="sm">
            <Button variant="default" onClick={() => void query.refetch()}>
              Look again
            </Button>
          </Group>
        </Empty>
      </Page>
    );
  return (
    <Page title={`Decision ${short(id)}`} path={path} actions={<Draft id={id} within={query.data?.within} />}>
      <Loaded query={query}>{({ decision, within }) => <Shown decision={decision} within={within} />}</Loaded>
    </Page>
  );
}

function Draft({ id, within }: { id: string; within: string | undefined }) {
  const can = useCan(within);
  if (!can("policy:evaluate")) return null;
  return (
    <Button
      component={Link}
      href={`/policy/playground?decision=${encodeURIComponent(id)}`}
      leftSection={<IconFileCode size={16} />}
    >
      Ask again with the draft
    </Button>
  );
}

function Row({ name, children }: { name: string; children: ReactNode }) {
  return (
    <Table.Tr>
      <Table.Th scope="row" fw={500} w="34%" style={{ verticalAlign: "top", overflowWrap: "anywhere" }}>
        {name}
      </Table.Th>
      <Table.Td style={{ overflowWrap: "anywhere" }}>{children}</Table.Td>
    </Table.Tr>
  );
}

function Values({ of, label }: { of: Record<string, unknown>; label: string }) {
  return (
    <Table aria-label={label} layout="fixed" verticalSpacing={3}>
      <Table.Tbody>
        {Object.entries(of).map(([name, value]) => (
          <Row key={name} name={name}>
            {name === "exp" || name === "iat" ? (
              <Time at={new Date(Number(value) * 1000).toISOString()} />
            ) : (
              <Code>{typeof value === "string" ? value : JSON.stringify(value)}</Code>
            )}
          </Row>
        ))}
      </Table.Tbody>
    </Table>
  );
}

function Shown({ decision: d, within }: { decision: DecisionBody; within: string | undefined }) {
  const event = (d.event ?? {}) as Event;
  const reasons = event.result?.reasons ?? [];
  const can = useCan(within);
  return (
    <Stack>
      <Paper withBorder p="md">
        <Group gap="xs" mb="xs">
          <Outcome allow={d.allow} />
          <Text fw={600}>
            <Who of={d} /> {d.tenant ? `in ${d.tenant}` : "in no tenant"}
            {d.allow ? "" : `: ${reasons.map((r) => r.title || r.code).join("; ") || d.codes?.join(", ")}`}
          </Text>
        </Group>
        <SimpleGrid cols={{ base: 1, sm: 2 }} spacing="xl">
          <Table aria-label="Decision" layout="fixed" verticalSpacing={3}>
            <Table.Tbody>
              <Row name="Id">
                <Copy value={d.decision} />
              </Row>
              <Row name="Time">
                <Time at={d.at} />
              </Row>
              <Row name="Policy">
                {can("policy:list") ? (
                  <Anchor component={Link} href={`/policy/revisions/${encodeURIComponent(d.revision)}`} size="sm">
                    <code>{d.revision}</code>
                  </Anchor>
                ) : (
                  <code>{d.revision}</code>
                )}
                {event.custom?.policy_name ? ` (${event.custom.policy_name})` : ""}
              </Row>
              {event.metrics?.timer_rego_query_eval_ns !== undefined && (
                <Row name="Evaluated in">{Math.round(event.metrics.timer_rego_query_eval_ns / 1000)} µs</Row>
              )}
              {event.trace_id && (
                <Row name="Trace">
                  <Copy value={event.trace_id} />
                </Row>
              )}
            </Table.Tbody>
          </Table>
          <Subject of={d} within={within} />
        </SimpleGrid>
      </Paper>
      <Why decision={d} within={within} />
      <SimpleGrid cols={{ base: 1, md: 2 }} spacing="md">
        <Stack gap="xs">
          <Title order={2}>Request</Title>
          {Object.entries(event.input ?? {})
            .filter(([, part]) => typeof part === "object" && part !== null)
            .map(([name, part]) => (
              <Paper key={name} withBorder p="sm">
                <Text size="sm" fw={600}>
                  {name}
                </Text>
                <Values of={part as Record<string, unknown>} label={`Input: ${name}`} />
              </Paper>
            ))}
          {(event.erased ?? []).length > 0 && (
            <Text size="sm" c="dimmed">
              Not recorded: {event.erased?.join(", ")}
            </Text>
          )}
        </Stack>
        <Stack gap="xs">
          <Title order={2}>Response</Title>
          <Paper withBorder p="sm">
            <Table aria-label="Response" layout="fixed" verticalSpacing={3}>
              <Table.Tbody>
                <Row name="Status">{event.result?.status ?? (d.allow ? 200 : 403)}</Row>
                <Row name="Tenant">{event.result?.tenant ?? "–"}</Row>
                {reasons.length > 0 && (
                  <Row name="Reasons">
                    {reasons.map((r) => (
                      <div key={r.code}>
                        <Code>{r.code}</Code> {r.title}
                      </div>
                    ))}
                  </Row>
                )}
                {Object.entries(event.result?.headers ?? {}).map(([name, value]) => (
                  <Row key={name} name={name}>
                    <Code>{String(value)}</Code>
                  </Row>
                ))}
              </Table.Tbody>
            </Table>
          </Paper>
          <Raw value={d.event} />
        </Stack>
      </SimpleGrid>
    </Stack>
  );
}

function Raw({ value }: { value: unknown }) {
  const [open, setOpen] = useState(false);
  if (!value) return null;
  return (
    <>
      <Button variant="default" size="xs" aria-expanded={open} onClick={() => setOpen(!open)} w="fit-content">
        {open ? "Hide" : "Show"} the record as JSON
      </Button>
      {open && <Json value={value} />}
    </>
  );
}

/** Who was decided about, with ways to what is known of them. */
function Subject({ of: d, within }: { of: DecisionBody; within: string | undefined }) {
  const can = useCan(within ?? d.tenant);
  const person = d.subject !== undefined && d.subject !== d.client_id;
  const query = { subject: d.subject, ...(d.issuer ? { issuer: d.issuer } : {}), limit: 2 };
  const users = $api.useQuery(
    "get",
    "/v1/users",
    { params: { query } },
    { enabled: person && !within && can("user:list") },
  );
  const members = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/members",
    { params: { path: { tenant: within ?? "" }, query } },
    { enabled: person && !!within && can("member:list") },
  );
  const user =
    users.data?.items?.find((u) => u.subject === d.subject)?.id ??
    members.data?.items?.find((m) => m.subject === d.subject)?.user;
  const about = new URLSearchParams({ kind: "member", object: user ?? "" });
  const link = (to: string, label: string) => (
    <Anchor key={to} component={Link} href={to} size="sm">
      {label}
    </Anchor>
  );
  return (
    <Table aria-label="Who" layout="fixed" verticalSpacing={3}>
      <Table.Tbody>
        <Row name="Subject">{d.subject ?? "not named"}</Row>
        <Row name="Issuer">{d.issuer ?? "–"}</Row>
        <Row name="Client">
          {d.client_id && can("client:read")
            ? link(`/clients/${encodeURIComponent(d.client_id)}`, d.client_id)
            : (d.client_id ?? "–")}
        </Row>
        {user && (
          <Row name="More">
            <Group gap="sm">
              {!within && link(`/users/${user}`, "The user")}
              {can("audit:read") && link(`/audit?${about}`, "Audit trail of the memberships")}
              {link(`/decisions?${new URLSearchParams({ subject: d.subject ?? "" })}`, "Their decisions")}
            </Group>
          </Row>
        )}
      </Table.Tbody>
    </Table>
  );
}

function Why({ decision: d, within }: { decision: DecisionBody; within: string | undefined }) {
  const can = useCan(within);
  const may = can("policy:explain");
  const query = useQuery({
    queryKey: ["explain", d.decision, within],
    enabled: may,
    queryFn: async () =>
      (
        await api.POST("/v1/policy/explain", {
          params: { query: within ? { tenant: within } : {} },
          body: { decision: d.decision },
        })
      ).data!,
  });
  if (!may) return null;
  return (
    <Stack gap="xs" component="section" aria-label="Why">
      <Title order={2}>Why</Title>
      <Loaded query={query}>
        {(x) => (
          <>
            <Now decision={d} explanation={x} />
            {(x.requestable ?? []).length > 0 && (
              <Alert color="blue" title="What they can ask for">
                {(x.requestable ?? []).map((r) => (
                  <div key={r.role}>
                    The role <Code>{r.role}</Code> would allow it: it can be requested for {duration(r.max_seconds)} at
                    most
                    {r.approval === "required" ? ", and must be approved." : ", and is granted at once (break-glass)."}
                  </div>
                ))}
              </Alert>
            )}
            <Paper withBorder p="sm">
              <ExplanationTree allow={x.allow} rules={x.rules ?? []} />
            </Paper>
            <Facts explanation={x} />
          </>
        )}
      </Loaded>
    </Stack>
  );
}

/** How the explanation, with current facts, differs from what was decided then. */
function Now({ decision: d, explanation: x }: { decision: DecisionBody; explanation: Schemas["ExplanationBody"] }) {
  const changed = x.changed ?? [];
  const other = x.allow !== d.allow;
  return (
    <>
      {x.detail && <Alert color="gray">{x.detail}</Alert>}
      {(other || changed.length > 0 || x.revision !== d.revision) && (
        <Alert
          color="yellow"
          title={other ? `It would be ${x.allow ? "allowed" : "denied"} now` : "It is explained with what is known now"}
        >
          {x.revision !== d.revision && (
            <div>
              The active policy is <code>{x.revision}</code>; <code>{d.revision}</code> decided.
            </div>
          )}
          {changed.length > 0 && (
            <div>
              Changed since:{" "}
              {changed.map((path) => (
                <Code key={path}>{readable(path)}</Code>
              ))}
            </div>
          )}
        </Alert>
      )}
      {(x.unknown ?? []).length > 0 && (
        <Text size="sm" c="dimmed">
          The policy reads what was not recorded: {x.unknown?.join(", ")}
        </Text>
      )}
    </>
  );
}

/** A document's path, whose steps are JSON Pointer tokens. */
const readable = (path: string) => path.replaceAll("~1", "/").replaceAll("~0", "~");

function Facts({ explanation: x }: { explanation: Schemas["ExplanationBody"] }) {
  const then = new Map((x.recorded?.facts ?? []).map((f) => [f.path, f.version]));
  const facts = x.facts ?? [];
  if (facts.length === 0) return null;
  const version = (v: number | undefined) => (v === undefined ? "does not exist" : `version ${v}`);
  return (
    <>
      <Title order={3}>Facts read</Title>
      <Table aria-label="Facts read" verticalSpacing={4} layout="fixed">
        <Table.Thead>
          <Table.Tr>
            <Table.Th w="50%">Document</Table.Th>
            <Table.Th>Then</Table.Th>
            <Table.Th>Now</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {facts.map((f) => (
            <Table.Tr key={f.path}>
              <Table.Td style={{ overflowWrap: "anywhere" }}>
                <Code>{readable(f.path)}</Code>
              </Table.Td>
              <Table.Td>{then.has(f.path) ? version(then.get(f.path)) : "not read"}</Table.Td>
              <Table.Td>
                {version(f.version)}
                {then.has(f.path) && then.get(f.path) !== f.version ? " (changed)" : ""}
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </>
  );
}
