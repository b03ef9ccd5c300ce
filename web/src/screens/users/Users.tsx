import { Button, Group, MultiSelect, Select, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { IconPlus, IconSearch } from "@tabler/icons-react";
import { useState } from "react";
import { useChanged } from "../../api/changes";
import { api, type Schemas } from "../../api/client";
import { usePages } from "../../api/pages";
import { navigate } from "../../app/location";
import { useCan, useMe } from "../../app/me";
import { type Column, PagedTable } from "../../components/DataTable";
import { AttributesInput, done, FormModal, parseAttributes } from "../../components/form";
import { Page } from "../../components/Page";
import { Status } from "../../components/Status";
import { Empty } from "../../components/states";
import { useParam } from "../tenants/params";
import { type Subject, SubjectFields, subjectOf } from "./SubjectFields";

export type UserBody = Schemas["UserBody"];
export const platformRoles = ["platform-admin", "policy-admin", "auditor"] as const;
export type PlatformRole = (typeof platformRoles)[number];

const oneLine = { whiteSpace: "nowrap", overflow: "hidden", textOverflow: "ellipsis", display: "block" } as const;

const columns: Column<UserBody>[] = [
  { key: "subject", header: "Subject", cell: (u) => <span style={{ ...oneLine, maxWidth: 260 }}>{u.subject}</span> },
  { key: "status", header: "Status", cell: (u) => <Status value={u.status} />, width: 120 },
  {
    key: "roles",
    header: "Platform roles",
    cell: (u) => <span style={oneLine}>{(u.platform_roles ?? []).join(", ") || "none"}</span>,
  },
  { key: "tenant", header: "Default tenant", cell: (u) => u.default_tenant ?? "–" },
  {
    key: "issuer",
    header: "Issuer",
    cell: (u) => (
      <span style={{ ...oneLine, maxWidth: 260 }} title={u.issuer}>
        {u.issuer}
      </span>
    ),
  },
];

export default function Users() {
  const can = useCan();
  const [search, setSearch] = useParam("search");
  const [issuer, setIssuer] = useParam("issuer");
  const [status, setStatus] = useParam("status");
  const [role, setRole] = useParam("platform_role");
  const [creating, setCreating] = useState(false);
  const [prefix] = useDebouncedValue(search.trim(), 150);
  const [exactIssuer] = useDebouncedValue(issuer.trim(), 300);
  const query = usePages("/v1/users", {
    params: {
      query: {
        ...(prefix ? { search: prefix } : {}),
        ...(exactIssuer ? { issuer: exactIssuer } : {}),
        ...(status ? { status: status as UserBody["status"] } : {}),
        ...(role ? { platform_role: role as PlatformRole } : {}),
      },
    },
  });
  const filtered = !!(prefix || exactIssuer || status || role);
  return (
    <Page
      title="Users"
      description="All users that the platform knows. A user is an issuer and a subject; it has no profile here."
      actions={
        can("user:create") && (
          <Button leftSection={<IconPlus size={16} />} onClick={() => setCreating(true)}>
            Create a user
          </Button>
        )
      }
    >
      <Group gap="xs">
        <TextInput
          aria-label="Search users"
          placeholder="Subject begins with"
          leftSection={<IconSearch size={16} />}
          value={search}
          onChange={(e) => setSearch(e.currentTarget.value)}
          w={{ base: "100%", xs: 240 }}
        />
        <TextInput
          aria-label="Issuer"
          placeholder="Any issuer"
          value={issuer}
          onChange={(e) => setIssuer(e.currentTarget.value)}
          w={{ base: "100%", xs: 240 }}
        />
        <Select
          aria-label="Status"
          placeholder="Any status"
          data={["active", "blocked"]}
          value={status || null}
          onChange={(s) => setStatus(s ?? "")}
          clearable
          clearButtonProps={{ "aria-label": "Any status" }}
          w={140}
        />
        <Select
          aria-label="Platform role"
          placeholder="Any platform role"
          data={[...platformRoles]}
          value={role || null}
          onChange={(r) => setRole(r ?? "")}
          clearable
          clearButtonProps={{ "aria-label": "Any platform role" }}
          w={180}
        />
      </Group>
      <PagedTable<UserBody>
        label="Users"
        query={query}
        columns={columns}
        rowKey={(u) => u.id}
        onRow={(u) => navigate(`/users/${u.id}`)}
        empty={
          <Empty title={filtered ? "No user fits" : "There are no users yet"}>
            {filtered
              ? "The search finds users whose subject begins with the text; the issuer must be complete."
              : "A user is created with their first membership, or here."}
          </Empty>
        }
      />
      {creating && <CreateUser onClose={() => setCreating(false)} />}
    </Page>
  );
}

function CreateUser({ onClose }: { onClose: () => void }) {
  const me = useMe();
  const changed = useChanged();
  const [who, setWho] = useState<Subject>({ subject: "", issuer: me.data?.issuer ?? "" });
  const [roles, setRoles] = useState<string[]>([]);
  const [tenant, setTenant] = useState("");
  const [attributes, setAttributes] = useState("");
  return (
    <FormModal
      title="Create a user"
      submitLabel="Create"
      onClose={onClose}
      disabled={!who.subject || !parseAttributes(attributes)}
      submit={async (key) => {
        const { data } = await api.POST("/v1/users", {
          params: { header: { "Idempotency-Key": key } },
          body: {
            ...subjectOf(who),
            ...(tenant.trim() ? { default_tenant: tenant.trim() } : {}),
            platform_roles: roles as PlatformRole[],
            attributes: parseAttributes(attributes),
          },
        });
        await changed("/v1/users");
        done(`${who.subject} is created`);
        navigate(`/users/${data!.id}`);
      }}
    >
      {(at) => (
        <>
          <SubjectFields value={who} onChange={setWho} at={at} />
          <PlatformRoles value={roles} onChange={setRoles} error={at("/platform_roles")} />
          <TextInput
            label="Default tenant"
            description="Its id: active where a request names none."
            value={tenant}
            onChange={(e) => setTenant(e.currentTarget.value)}
            error={at("/default_tenant")}
            maxLength={64}
          />
          <AttributesInput text={attributes} onChange={setAttributes} error={at("/attributes")} />
        </>
      )}
    </FormModal>
  );
}

export function PlatformRoles({
  value,
  onChange,
  error,
}: {
  value: string[];
  onChange: (roles: string[]) => void;
  error?: string;
}) {
  return (
    <MultiSelect
      label="Platform roles"
      description="They hold in every tenant. Most users have none."
      placeholder={value.length === 0 ? "None" : undefined}
      data={[...platformRoles]}
      value={value}
      onChange={onChange}
      error={error}
    />
  );
}
