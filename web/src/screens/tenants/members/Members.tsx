import { Button, Group, Select, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { IconPlus, IconSearch, IconUpload } from "@tabler/icons-react";
import { lazy, Suspense, useState } from "react";
import { useLocation } from "wouter";
import { usePages } from "../../../api/pages";
import { navigate } from "../../../app/location";
import { useCan, useMe } from "../../../app/me";
import { type Column, PagedTable } from "../../../components/DataTable";
import { Status } from "../../../components/Status";
import { Empty, Loading } from "../../../components/states";
import { Time } from "../../../components/Time";
import { useParam } from "../params";
import { useRoles } from "../roles/RolesSelect";
import { MemberDetail } from "./MemberDetail";
import { AddMember, type MemberBody } from "./MemberForm";

const Import = lazy(() => import("./Import"));

const ends = [
  { value: "24h", label: "Ends within a day" },
  { value: "168h", label: "Ends within a week" },
  { value: "720h", label: "Ends within 30 days" },
  { value: "2160h", label: "Ends within 90 days" },
];

const oneLine = { whiteSpace: "nowrap", overflow: "hidden", textOverflow: "ellipsis", display: "block" } as const;

const columns: Column<MemberBody>[] = [
  { key: "subject", header: "Subject", cell: (m) => <span style={{ ...oneLine, maxWidth: 260 }}>{m.subject}</span> },
  { key: "status", header: "Status", cell: (m) => <Status value={m.status} />, width: 130 },
  {
    key: "roles",
    header: "Roles",
    cell: (m) => (
      <span style={{ ...oneLine, maxWidth: 320 }} title={(m.roles ?? []).join(", ")}>
        {(m.roles ?? []).join(", ") || "none"}
      </span>
    ),
  },
  { key: "ends", header: "Ends", cell: (m) => (m.expires_at ? <Time at={m.expires_at} /> : "no end"), width: 200 },
  {
    key: "issuer",
    header: "Issuer",
    cell: (m) => (
      <span style={{ ...oneLine, maxWidth: 240 }} title={m.issuer}>
        {m.issuer}
      </span>
    ),
  },
];

export function Members({ tenant }: { tenant: string }) {
  const [location] = useLocation();
  const can = useCan(tenant);
  if (location.endsWith("/members/import") && can("member:batch")) {
    return (
      <Suspense fallback={<Loading />}>
        <Import tenant={tenant} />
      </Suspense>
    );
  }
  return <MemberList tenant={tenant} />;
}

function MemberList({ tenant }: { tenant: string }) {
  const can = useCan(tenant);
  const me = useMe();
  const [location] = useLocation();
  const [search, setSearch] = useParam("search");
  const [role, setRole] = useParam("role");
  const [status, setStatus] = useParam("status");
  const [issuer, setIssuer] = useParam("issuer");
  const [within, setWithin] = useParam("ends_within");
  const [member, setMember] = useParam("member");
  const [adding, setAdding] = useState(false);
  const [prefix] = useDebouncedValue(search.trim(), 150);
  const [exactIssuer] = useDebouncedValue(issuer.trim(), 300);
  const roles = useRoles(tenant, can("role:list"));
  const query = usePages("/v1/tenants/{tenant}/members", {
    params: {
      path: { tenant },
      query: {
        ...(prefix ? { search: prefix } : {}),
        ...(role ? { role } : {}),
        ...(status ? { status: status as MemberBody["status"] } : {}),
        ...(exactIssuer ? { issuer: exactIssuer } : {}),
        ...(within ? { ends_within: within } : {}),
      },
    },
  });
  const filtered = !!(prefix || role || status || exactIssuer || within);
  const names = (roles.data?.items ?? []).map((r) => r.name);
  return (
    <>
      <Group mb="md" gap="xs" align="flex-end">
        <TextInput
          aria-label="Search members"
          placeholder="Subject begins with"
          leftSection={<IconSearch size={16} />}
          value={search}
          onChange={(e) => setSearch(e.currentTarget.value)}
          w={{ base: "100%", xs: 220 }}
        />
        <Select
          aria-label="Role"
          placeholder="Any role"
          data={role && !names.includes(role) ? [role, ...names] : names}
          value={role || null}
          onChange={(r) => setRole(r ?? "")}
          searchable
          limit={50}
          clearable
          clearButtonProps={{ "aria-label": "Any role" }}
          nothingFoundMessage="No role is called that"
          w={160}
        />
        <Select
          aria-label="Status"
          placeholder="Any status"
          data={["active", "suspended", "expired"]}
          value={status || null}
          onChange={(s) => setStatus(s ?? "")}
          clearable
          clearButtonProps={{ "aria-label": "Any status" }}
          w={140}
        />
        <Select
          aria-label="End"
          placeholder="Any end"
          data={ends.some((e) => e.value === within) || !within ? ends : [...ends, { value: within, label: within }]}
          value={within || null}
          onChange={(w) => setWithin(w ?? "")}
          clearable
          clearButtonProps={{ "aria-label": "Any end" }}
          w={190}
        />
        <TextInput
          aria-label="Issuer"
          placeholder="Any issuer"
          value={issuer}
          onChange={(e) => setIssuer(e.currentTarget.value)}
          w={{ base: "100%", xs: 170 }}
        />
        <Group gap="xs" ml="auto">
          {can("member:batch") && (
            <Button
              variant="default"
              leftSection={<IconUpload size={16} />}
              onClick={() => navigate(`${location}/import`)}
            >
              Import
            </Button>
          )}
          {can("member:create") && (
            <Button leftSection={<IconPlus size={16} />} onClick={() => setAdding(true)}>
              Add a member
            </Button>
          )}
        </Group>
      </Group>
      <PagedTable<MemberBody>
        label="Members"
        query={query}
        columns={columns}
        rowKey={(m) => m.user}
        onRow={(m) => setMember(m.user)}
        maxHeight="64vh"
        empty={
          <Empty title={filtered ? "No member fits" : "There are no members yet"}>
            {filtered
              ? "The search finds members whose subject begins with the text; the issuer must be complete."
              : "Add one by issuer and subject, or import many from a file."}
          </Empty>
        }
      />
      {member && <MemberDetail key={member} tenant={tenant} user={member} onClose={() => setMember("")} />}
      {adding && (
        <AddMember
          tenant={tenant}
          issuer={me.data?.issuer ?? ""}
          onClose={(added) => {
            setAdding(false);
            if (added) setMember(added);
          }}
        />
      )}
    </>
  );
}
