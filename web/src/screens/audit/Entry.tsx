import { Anchor, Button, Code, Drawer, Group, Stack, Table, Text, Title } from "@mantine/core";
import { type ReactNode, useState } from "react";
import { Link } from "wouter";
import type { Schemas } from "../../api/client";
import { useCan } from "../../app/me";
import { chooseTenant } from "../../app/scope";
import { Copy } from "../../components/Copy";
import { Diff } from "../../components/Diff";
import { Json } from "../../components/Json";
import { Time } from "../../components/Time";
import type { NameOf } from "./names";

export type Entry = Schemas["AuditBody"];

/** An entry by its chain and number. */
export const idOf = (e: Entry) => `${e.chain}/${e.seq}`;

const actors: Record<Entry["actor_kind"], string> = {
  user: "user",
  client: "client",
  operator: "operator, by a command",
  stream: "stream of security events",
};

const ways: Record<Entry["via"], string> = {
  api: "the API",
  command: "a command",
  bootstrap: "the first start",
  loop: "this service itself, in the background",
  signal: "a security event",
};

/** Kinds whose changes change who has access in the tenant. */
const access = ["member", "role", "mapping", "client", "user", "tenant", "request"];

function Row({ name, children }: { name: string; children: ReactNode }) {
  return (
    <Table.Tr>
      <Table.Th scope="row" fw={500} w="30%" style={{ verticalAlign: "top" }}>
        {name}
      </Table.Th>
      <Table.Td style={{ overflowWrap: "anywhere" }}>{children}</Table.Td>
    </Table.Tr>
  );
}

/** Where an object is in the console; undefined: it has no page. */
function pageOf(e: Entry): string | undefined {
  const object = encodeURIComponent(e.object);
  if (e.kind === "client") return `/clients/${object}`;
  if (e.kind === "user") return `/users/${object}`;
  if (e.kind === "tenant") return `/tenants/${object}`;
  if (e.kind === "member" && e.chain) return `/tenants/${encodeURIComponent(e.chain)}/members`;
  if (e.kind === "role" && e.chain) return `/tenants/${encodeURIComponent(e.chain)}/roles`;
  if (e.kind === "mapping" && e.chain) return `/tenants/${encodeURIComponent(e.chain)}/mappings`;
  if (e.kind === "policy") return "/policy/revisions";
  return undefined;
}

/** One entry of the audit log: who changed what, before and after. */
export function EntryDrawer({ entry: e, nameOf, onClose }: { entry: Entry; nameOf: NameOf; onClose: () => void }) {
  const can = useCan(e.chain || undefined);
  const [raw, setRaw] = useState(false);
  const page = pageOf(e);
  const at = (moment: number) => new Date(moment).toISOString();
  const moment = new Date(e.at).getTime();
  return (
    <Drawer
      opened
      onClose={onClose}
      position="right"
      size="xl"
      title={e.action}
      closeButtonProps={{ "aria-label": "Close" }}
    >
      <Stack>
        <Table aria-label="Entry" layout="fixed" verticalSpacing={4}>
          <Table.Tbody>
            <Row name="Time">
              <Time at={e.at} />
            </Row>
            <Row name="Who">
              {nameOf(e.actor, e.actor_kind === "user")} ({actors[e.actor_kind]}), by {ways[e.via]}
              <div>
                <Copy value={e.actor} label="Copy the id of who" />
              </div>
            </Row>
            <Row name="Object">
              {e.kind.replace("_", " ")} {nameOf(e.object, e.kind === "member" || e.kind === "user")}
              <div>
                <Copy value={e.object} label="Copy the id of the object" />
              </div>
            </Row>
            <Row name="Tenant">{e.chain || "none: the platform"}</Row>
            {e.address && <Row name="Address">{e.address}</Row>}
            {e.request_id && (
              <Row name="Request">
                <Copy value={e.request_id} />
              </Row>
            )}
            {e.decision_id && (
              <Row name="Authorized by">
                the decision <Code>{e.decision_id}</Code>
              </Row>
            )}
            <Row name="Chain">
              entry {e.seq} <Code style={{ whiteSpace: "normal" }}>{e.hash}</Code>
            </Row>
          </Table.Tbody>
        </Table>
        <Group gap="sm">
          {page && (
            <Anchor component={Link} href={page} size="sm">
              The {e.kind === "policy" ? "revisions" : e.kind} now
            </Anchor>
          )}
          <Anchor component={Link} href={`/audit?${new URLSearchParams({ kind: e.kind, object: e.object })}`} size="sm">
            All changes of it
          </Anchor>
          {e.chain && access.includes(e.kind) && can("access:list") && (
            <>
              <Anchor
                component={Link}
                href={`/access?${new URLSearchParams({ tenant: e.chain, ask: "holders", at: at(moment - 1) })}`}
                size="sm"
                onClick={() => chooseTenant(e.chain)}
              >
                Access before it
              </Anchor>
              <Anchor
                component={Link}
                href={`/access?${new URLSearchParams({ tenant: e.chain, ask: "holders", at: at(moment + 1) })}`}
                size="sm"
                onClick={() => chooseTenant(e.chain)}
              >
                Access after it
              </Anchor>
            </>
          )}
        </Group>
        <div>
          <Title order={2} fz="md">
            Before and after
          </Title>
          <Text size="sm" c="dimmed">
            {e.before === undefined || e.before === null
              ? "It was created."
              : e.after === undefined || e.after === null
                ? "It was deleted."
                : "It was changed."}
          </Text>
        </div>
        <Diff label="Changes" changes={e.changes ?? []} />
        <Button variant="default" size="xs" w="fit-content" aria-expanded={raw} onClick={() => setRaw(!raw)}>
          {raw ? "Hide" : "Show"} the entry as JSON
        </Button>
        {raw && <Json value={e} />}
      </Stack>
    </Drawer>
  );
}
