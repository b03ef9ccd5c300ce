import { Autocomplete, Group, SegmentedControl, Text } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useState } from "react";
import { usePages } from "../../api/pages";
import { PagedTable } from "../../components/DataTable";
import { Empty } from "../../components/states";
import { Time } from "../../components/Time";
import { useParam } from "../tenants/params";
import { useRoles } from "../tenants/roles/RolesSelect";
import { clipped, Export, Moment, pathsText, Who } from "./parts";

/** Who holds a role or a permission in a tenant, now or at an earlier moment. */
export function Holders({ tenant }: { tenant: string }) {
  const [role, setRole] = useParam("role");
  const [permission, setPermission] = useParam("permission");
  const [at, setAt] = useParam("at");
  const [kind, setKind] = useState<"role" | "permission">(permission ? "permission" : "role");
  const roles = useRoles(tenant);
  const value = kind === "role" ? role : permission;
  const [asked] = useDebouncedValue(value.trim(), 300);
  const names =
    kind === "role"
      ? (roles.data?.items ?? []).map((r) => r.name)
      : [...new Set((roles.data?.items ?? []).flatMap((r) => r.permissions ?? []))].sort();
  const query = {
    ...(kind === "role" ? { role: asked } : { permission: asked }),
    ...(at ? { at } : {}),
  };
  const found = usePages(
    "/v1/tenants/{tenant}/access",
    { params: { path: { tenant }, query } },
    { enabled: asked !== "" },
  );
  return (
    <>
      <Group align="flex-end" gap="xs">
        <SegmentedControl
          aria-label="Role or permission"
          data={[
            { value: "role", label: "Role" },
            { value: "permission", label: "Permission" },
          ]}
          value={kind}
          onChange={(k) => {
            setKind(k as "role" | "permission");
            setRole("");
            setPermission("");
          }}
        />
        <Autocomplete
          label={kind === "role" ? "Role" : "Permission"}
          data={names}
          limit={50}
          value={value}
          onChange={kind === "role" ? setRole : setPermission}
          w={{ base: "100%", xs: 260 }}
        />
        <Moment label="At (empty: now)" value={at} onChange={setAt} />
        {asked && (
          <Export
            path={`/v1/tenants/${encodeURIComponent(tenant)}/access?${new URLSearchParams(query)}`}
            name={`${tenant}-access`}
          />
        )}
      </Group>
      {asked === "" ? (
        <Empty title={kind === "role" ? "Choose a role" : "Choose a permission"}>
          The list names members, clients and mappings that hold it, and by which role.
        </Empty>
      ) : (
        <>
          {found.data?.pages[0]?.tenant_status !== undefined && found.data.pages[0].tenant_status !== "active" && (
            <Text size="sm">The tenant is {found.data.pages[0].tenant_status}: nobody holds anything in it.</Text>
          )}
          <PagedTable
            label="Who holds it"
            query={found}
            rowKey={(a) => `${a.kind} ${a.user} ${a.client_id} ${a.claim} ${a.value} ${a.issuer}`}
            maxHeight="56vh"
            columns={[
              { key: "who", header: "Who", cell: (a) => <Who of={a} tenant={tenant} />, width: 260 },
              {
                key: "why",
                header: "Why",
                cell: (a) => (
                  <span style={{ ...clipped, maxWidth: 420 }} title={pathsText(a.paths)}>
                    {pathsText(a.paths)}
                  </span>
                ),
              },
              {
                key: "end",
                header: "Ends",
                cell: (a) => (a.expires_at ? <Time at={a.expires_at} /> : "no end"),
                width: 190,
              },
              {
                key: "issuer",
                header: "Issuer",
                cell: (a) => <span style={{ ...clipped, maxWidth: 220 }}>{a.issuer}</span>,
              },
            ]}
            empty={
              <Empty title="Nobody holds it">
                {at ? "At that moment neither a member, nor a client, nor a mapping" : "No member, client or mapping"}{" "}
                of {tenant} {at ? "had" : "has"} {kind} {asked}.
              </Empty>
            }
          />
        </>
      )}
    </>
  );
}
