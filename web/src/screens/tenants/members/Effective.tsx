import { Alert, Stack, Table, Text, TextInput, Title } from "@mantine/core";
import { useState } from "react";
import { $api, type Schemas } from "../../../api/client";
import { useCan } from "../../../app/me";
import { type Column, DataTable } from "../../../components/DataTable";
import { Failure, Loading } from "../../../components/states";
import { Time } from "../../../components/Time";

type Held = NonNullable<Schemas["UserAccessBody"]["roles"]>[number];
type Path = NonNullable<Held["paths"]>[number];

const reasons: Record<string, string> = {
  user_blocked: "The user is blocked.",
  tenant_suspended: "The tenant is suspended.",
  tenant_archived: "The tenant is archived.",
  membership_suspended: "The membership is suspended.",
  membership_expired: "The membership has ended.",
  issuer_does_not_reach_tenant: "The issuer of the user's tokens is not trusted for this tenant.",
};

/** "assigned", or the chain from the assigned role to the one that grants. */
const origin = (p: Path) =>
  (p.roles ?? []).length > 1 ? (p.roles ?? []).join(" → ") : `assigned${p.roles?.[0] ? `: ${p.roles[0]}` : ""}`;

const columns: Column<Held>[] = [
  { key: "name", header: "Name", cell: (h) => <code style={{ whiteSpace: "nowrap" }}>{h.name}</code> },
  {
    key: "origin",
    header: "Held by",
    cell: (h) => {
      const paths = (h.paths ?? []).map(origin);
      return (
        <span title={paths.join("\n")} style={{ whiteSpace: "nowrap" }}>
          {paths.slice(0, 4).join("; ") || "–"}
          {paths.length > 4 ? `; and ${paths.length - 4} more` : ""}
        </span>
      );
    },
  },
  { key: "until", header: "Until", cell: (h) => (h.expires_at ? <Time at={h.expires_at} /> : "no end") },
];

/** What a member effectively holds in a tenant, each with its origin, and what claims of the provider would add. */
export function Effective({ tenant, user, order = 3 }: { tenant: string; user: string; order?: 2 | 3 }) {
  const can = useCan(tenant);
  const [filter, setFilter] = useState("");
  const access = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/members/{user}/access",
    { params: { path: { tenant, user } } },
    { enabled: can("access:read") },
  );
  const effective = $api.useQuery(
    "get",
    "/v1/users/{user}/effective",
    { params: { path: { user }, query: { tenant } } },
    { enabled: can("effective:read") },
  );
  if (access.isLoading || effective.isLoading) return <Loading />;
  if (access.isError && !access.data) return <Failure error={access.error} retry={() => void access.refetch()} />;
  const a = access.data;
  if (!a) return null;
  const whyNot = a.why ?? [];
  const fits = (h: Held) => h.name.includes(filter.trim());
  const permissions = a.permissions ?? [];
  const mappings = effective.data?.mappings ?? [];
  return (
    <Stack>
      {!a.in_force && (
        <Alert color="orange" variant="light" title="Nothing is in force">
          {whyNot.map((w) => reasons[w] ?? w).join(" ")}
        </Alert>
      )}
      <Title order={order}>Effective roles</Title>
      {(a.roles ?? []).length === 0 ? (
        <Text size="sm" c="dimmed">
          None.
        </Text>
      ) : (
        <DataTable label="Effective roles" rows={a.roles!} columns={columns} rowKey={(r) => r.name} maxHeight={280} />
      )}
      <Title order={order}>Effective permissions</Title>
      {permissions.length === 0 ? (
        <Text size="sm" c="dimmed">
          None.
        </Text>
      ) : (
        <>
          {permissions.length > 8 && (
            <TextInput
              aria-label="Filter permissions"
              placeholder="Filter permissions"
              value={filter}
              onChange={(e) => setFilter(e.currentTarget.value)}
            />
          )}
          <DataTable
            label="Effective permissions"
            rows={permissions.filter(fits)}
            columns={columns}
            rowKey={(p) => p.name}
            maxHeight={320}
          />
        </>
      )}
      {effective.isError && <Failure error={effective.error} retry={() => void effective.refetch()} />}
      {mappings.length > 0 && (
        <>
          <Title order={order}>By claims</Title>
          <Text size="sm" c="dimmed">
            Roles that a token adds when it carries the claim.
          </Text>
          <Table>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Claim</Table.Th>
                <Table.Th>Roles</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {mappings.map((m) => (
                <Table.Tr key={m.id}>
                  <Table.Td>
                    <code>
                      {m.claim} = {m.value}
                    </code>
                  </Table.Td>
                  <Table.Td>{(m.roles ?? []).join(", ")}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </>
      )}
    </Stack>
  );
}
