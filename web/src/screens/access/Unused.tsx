import { Alert, Anchor, Group, NumberInput, SegmentedControl, Stack, Text } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { Link } from "wouter";
import type { Schemas } from "../../api/client";
import { usePages } from "../../api/pages";
import { isProblem } from "../../api/problem";
import { PagedTable } from "../../components/DataTable";
import { Empty } from "../../components/states";
import { Time } from "../../components/Time";
import { useParam } from "../tenants/params";
import { clipped, Export, Who } from "./parts";

type Kind = Schemas["UnusedBody"]["kind"];
const kinds: Kind[] = ["membership", "role", "client"];

/** What no decision has used for some days. Nothing is removed from here: each row leads to where it is edited. */
export function Unused({ tenant }: { tenant: string }) {
  const [kindParam, setKind] = useParam("kind");
  const [daysParam, setDays] = useParam("days");
  const kind = kinds.find((k) => k === kindParam) ?? "membership";
  const [days] = useDebouncedValue(Number(daysParam) || 90, 300);
  const query = usePages("/v1/tenants/{tenant}/access/unused", {
    params: { path: { tenant }, query: { days, kind } },
  });
  const about = query.data?.pages[0];
  const to = `/tenants/${encodeURIComponent(tenant)}`;
  return (
    <Stack>
      <Group align="flex-end" gap="xs">
        <SegmentedControl
          aria-label="Kind"
          data={[
            { value: "membership", label: "Memberships" },
            { value: "role", label: "Roles" },
            { value: "client", label: "Clients" },
          ]}
          value={kind}
          onChange={(k) => setKind(k === "membership" ? "" : k)}
        />
        <NumberInput
          label="Not used for days"
          min={1}
          max={3650}
          value={Number(daysParam) || 90}
          onChange={(d) => setDays(Number(d) === 90 ? "" : String(d))}
          w={150}
        />
        <Export
          path={`/v1/tenants/${encodeURIComponent(tenant)}/access/unused?${new URLSearchParams({ days: String(days), kind })}`}
          name={`${tenant}-unused-${kind}`}
        />
      </Group>
      {isProblem(query.error, "usage_not_recorded") ? (
        <Empty title="Use is not recorded">
          This service does not record what decisions use. Whoever runs it sets <code>USAGE_RECORDING=on</code> or{" "}
          <code>DECISIONS_DATABASE_URL</code>; after as many days, this list is whole.
        </Empty>
      ) : (
        <>
          {about && !about.complete && (
            <Alert color="yellow" title="Not every day is recorded">
              Use was recorded on {about.recorded_days} of these days, since {about.recorded_since}. What is listed may
              have been used on the others.
            </Alert>
          )}
          {about && (
            <Text size="sm">
              Not used since {about.unused_since}, as {about.decisions.toLocaleString()} decisions say.
              {kind === "membership" &&
                ` Without all unused memberships, ${about.administrators.left} of ${about.administrators.now} administrators are left.`}
              {kind === "role" && " A role that is used by AuthZEN alone is listed as well."}
            </Text>
          )}
          <PagedTable
            label="Unused access"
            query={query}
            rowKey={(u) => `${u.kind} ${u.user} ${u.role} ${u.client_id} ${u.issuer}`}
            maxHeight="54vh"
            columns={[
              {
                key: "what",
                header: kind === "role" ? "Role" : kind === "client" ? "Client" : "Member",
                cell: (u) =>
                  u.role ? (
                    <Anchor component={Link} size="sm" href={u.global ? "/roles" : `${to}/roles`}>
                      {u.role}
                    </Anchor>
                  ) : u.kind === "client" && u.client_id ? (
                    <Anchor component={Link} size="sm" href={`/clients?client=${encodeURIComponent(u.client_id)}`}>
                      {u.client_id}
                    </Anchor>
                  ) : (
                    <Who of={u} tenant={tenant} />
                  ),
              },
              { key: "used", header: "Last used", cell: (u) => u.last_used ?? "never, as far as is recorded" },
              { key: "created", header: "Created", cell: (u) => <Time at={u.created_at} /> },
              {
                key: "trim",
                header: "Its removal would change",
                cell: (u) => (
                  <span style={{ ...clipped, maxWidth: 420 }} title={trimText(u.trim)}>
                    {trimText(u.trim)}
                  </span>
                ),
              },
            ]}
            empty={<Empty title="Everything was used, or is younger than that" />}
          />
        </>
      )}
    </Stack>
  );
}

function trimText(t: Schemas["UnusedTrim"]): string {
  return (
    [
      t.administrator && "an administrator would be removed",
      t.roles?.length && `lost roles: ${t.roles.join(", ")}`,
      t.permissions?.length && `lost permissions: ${t.permissions.join(", ")}`,
      t.members && `${t.members.toLocaleString()} members have it`,
      t.clients && `${t.clients.toLocaleString()} clients have it`,
      t.mappings && `${t.mappings.toLocaleString()} mappings grant it`,
      t.inherited_by?.length && `inherited by ${t.inherited_by.join(", ")}`,
    ]
      .filter(Boolean)
      .join("; ") || "nothing else"
  );
}
