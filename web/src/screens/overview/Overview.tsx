import { Anchor, Group, List, Paper, SimpleGrid, Stack, Text, Title } from "@mantine/core";
import type { ReactNode } from "react";
import { Link } from "wouter";
import { $api, type Schemas } from "../../api/client";
import { useCan, useMe } from "../../app/me";
import { useScope } from "../../app/scope";
import { Page } from "../../components/Page";
import { Status } from "../../components/Status";
import { Empty, Loaded } from "../../components/states";
import { Denials } from "./Denials";
import { Platform } from "./Platform";
import { RecentChanges } from "./RecentChanges";

export default function Overview() {
  const me = useMe();
  const can = useCan();
  return (
    <Page title="Overview">
      <Loaded query={me}>{(m) => (can("overview:read") ? <Platform /> : <Own me={m} />)}</Loaded>
    </Page>
  );
}

/** What a person without a role of the platform sees: who they are, and what they administer. */
function Own({ me }: { me: Schemas["MeBody"] }) {
  const tenants = me.tenants ?? [];
  const { tenant } = useScope();
  const within = useCan(tenant);
  const administers = ["audit:read", "member:list", "decision:list"].some(within);
  if (me.status !== "active" || tenants.length === 0) return <Outsider me={me} />;
  return (
    <Stack gap="lg">
      {tenant && administers && <TenantOverview tenant={tenant} />}
      <Card title="You">
        <Text size="sm" style={{ overflowWrap: "anywhere" }}>
          You are <strong>{me.subject}</strong> of {me.issuer}.
        </Text>
        <Text size="sm">
          {tenants.length === 1 ? "You belong to one tenant." : `You belong to ${tenants.length} tenants.`}
          {me.more && " There are more than are listed here."}
        </Text>
      </Card>
      <SimpleGrid cols={{ base: 1, sm: 2, lg: 3 }}>
        {tenants.map((t) => (
          <OwnTenant key={t.tenant} own={t} />
        ))}
      </SimpleGrid>
    </Stack>
  );
}

function OwnTenant({ own }: { own: Schemas["OwnTenant"] }) {
  const inForce = own.status === "active" && own.membership_status === "active";
  const requestable = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/requestable-roles",
    { params: { path: { tenant: own.tenant } } },
    { enabled: inForce },
  );
  const roles = own.roles ?? [];
  return (
    <Card title={own.name}>
      <Group gap="xs">
        <Text size="sm">Tenant</Text>
        <Status value={own.status} />
        <Text size="sm">Your membership</Text>
        <Status value={own.membership_status} />
      </Group>
      {!inForce && (
        <Text size="sm">
          You hold nothing here now. An administrator of the tenant or of the platform can change it.
        </Text>
      )}
      <Text size="sm">
        {roles.length > 0 ? `Your roles: ${roles.join(", ")}` : "You have no role here that is in force."}
      </Text>
      {inForce && (requestable.data?.items?.length ?? 0) > 0 && (
        <Text size="sm" component="div">
          You can ask for {requestable.data!.items!.map((r) => r.role).join(", ")}:{" "}
          <Anchor component={Link} href={`/tenants/${encodeURIComponent(own.tenant)}/requests`}>
            ask for a role in {own.name}
          </Anchor>
        </Text>
      )}
    </Card>
  );
}

/** Somebody who can sign in, and nothing else: what that means, and whom to ask. */
function Outsider({ me }: { me: Schemas["MeBody"] }) {
  const words = {
    blocked: { title: "Your user is blocked", text: "Each of your requests is denied until it is unblocked." },
    deleted: { title: "Your user was removed", text: "You hold nothing in any tenant." },
    unknown: {
      title: "You are not known here yet",
      text: "The identity provider signed you in, and no tenant has you as a member.",
    },
    active: { title: "You belong to no tenant", text: "You are known here, and no tenant has you as a member." },
  }[me.status];
  return (
    <Empty title={words.title}>
      <Stack gap="xs" align="center">
        <span>{words.text}</span>
        <span>
          Ask an administrator of the tenant that you need, or of the platform, and name this subject and issuer:
        </span>
        <Text size="sm" fw={600} component="span" style={{ overflowWrap: "anywhere" }}>
          {me.subject} · {me.issuer}
        </Text>
      </Stack>
    </Empty>
  );
}

/** For an administrator or auditor of a tenant. */
function TenantOverview({ tenant }: { tenant: string }) {
  const can = useCan(tenant);
  const path = { params: { path: { tenant } } };
  const body = $api.useQuery("get", "/v1/tenants/{tenant}", path, { enabled: can("tenant:read") });
  const members = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/members",
    { params: { path: { tenant }, query: { limit: 200 } } },
    { enabled: can("member:list") },
  );
  const requests = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/requests",
    { params: { path: { tenant }, query: { status: "pending", limit: 100 } } },
    { enabled: can("request:list") && can("request:approve") },
  );
  const count = (page: { items: unknown[] | null; next?: string }) =>
    `${(page.items?.length ?? 0).toLocaleString()}${page.next ? " and more" : ""}`;
  const to = `/tenants/${encodeURIComponent(tenant)}`;
  return (
    <Stack gap="lg">
      <Card title={body.data?.name ?? tenant}>
        <List size="sm" spacing={4} listStyleType="none">
          {body.data && (
            <List.Item>
              <Group gap="xs">
                <span>Status</span>
                <Status value={body.data.status} />
                {body.data.status !== "active" && <span>Requests to it are denied.</span>}
              </Group>
            </List.Item>
          )}
          {members.data && (
            <List.Item>
              <Anchor component={Link} href={`${to}/members`}>
                Members: {count(members.data)}
              </Anchor>
            </List.Item>
          )}
          {requests.data && (
            <List.Item>
              <Anchor component={Link} href={`${to}/requests`}>
                {requests.data.items?.length
                  ? `Requests that wait for a decision: ${count(requests.data)}`
                  : "No request waits for a decision"}
              </Anchor>
            </List.Item>
          )}
        </List>
      </Card>
      {can("decision:list") && <Denials tenant={tenant} />}
      {can("audit:read") && <RecentChanges tenant={tenant} />}
    </Stack>
  );
}

export function Card({ title, children }: { title: string; children: ReactNode }) {
  return (
    <Paper withBorder p="md" component="section" aria-label={title}>
      <Stack gap="xs">
        <Title order={2} style={{ overflowWrap: "anywhere" }}>
          {title}
        </Title>
        {children}
      </Stack>
    </Paper>
  );
}
