import { Button, Group, Select, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { IconPlus, IconSearch } from "@tabler/icons-react";
import { useState } from "react";
import { Link } from "wouter";
import { useChanged } from "../../api/changes";
import { api } from "../../api/client";
import { usePages } from "../../api/pages";
import { navigate } from "../../app/location";
import { useCan, useMe } from "../../app/me";
import { type Column, DataTable, PagedTable } from "../../components/DataTable";
import { AttributesInput, done, FormModal, parseAttributes } from "../../components/form";
import { Page } from "../../components/Page";
import { Status } from "../../components/Status";
import { Empty, Loaded } from "../../components/states";
import { useParam } from "./params";

export default function Tenants() {
  const can = useCan();
  const me = useMe();
  const [creating, setCreating] = useState(false);
  return (
    <Page
      title="Tenants"
      description="Customers of the platform, each with its own members and roles."
      actions={
        <>
          {can("global-role:list") && (
            <Button component={Link} href="/roles" variant="default">
              Global roles
            </Button>
          )}
          {can("tenant:create") && (
            <Button leftSection={<IconPlus size={16} />} onClick={() => setCreating(true)}>
              Create a tenant
            </Button>
          )}
        </>
      }
    >
      <Loaded query={me}>{() => (can("tenant:list") ? <AllTenants /> : <OwnTenants />)}</Loaded>
      {creating && <CreateTenant onClose={() => setCreating(false)} />}
    </Page>
  );
}

interface Row {
  id: string;
  name: string;
  status: string;
  slug?: string;
  roles?: string[];
}

const columns: Column<Row>[] = [
  { key: "name", header: "Name", cell: (t) => t.name },
  { key: "id", header: "Id", cell: (t) => <code>{t.id}</code> },
  { key: "status", header: "Status", cell: (t) => <Status value={t.status} />, width: 140 },
];

const open = (t: Row) => navigate(`/tenants/${t.id}/members`);

function AllTenants() {
  const [search, setSearch] = useParam("search");
  const [status, setStatus] = useParam("status");
  const [prefix] = useDebouncedValue(search.trim(), 200);
  const query = usePages("/v1/tenants", {
    params: {
      query: {
        ...(prefix ? { search: prefix } : {}),
        ...(status ? { status: status as "active" | "suspended" | "archived" } : {}),
      },
    },
  });
  return (
    <>
      <Group>
        <TextInput
          aria-label="Search tenants"
          placeholder="Name or slug begins with"
          leftSection={<IconSearch size={16} />}
          value={search}
          onChange={(e) => setSearch(e.currentTarget.value)}
          w={{ base: "100%", xs: 280 }}
        />
        <Select
          aria-label="Status"
          placeholder="Any status"
          data={["active", "suspended", "archived"]}
          value={status || null}
          onChange={(s) => setStatus(s ?? "")}
          clearable
          clearButtonProps={{ "aria-label": "Any status" }}
          w={160}
        />
      </Group>
      <PagedTable<Row>
        label="Tenants"
        query={query}
        columns={[columns[0]!, columns[1]!, { key: "slug", header: "Slug", cell: (t) => t.slug }, columns[2]!]}
        rowKey={(t) => t.id}
        onRow={open}
        empty={
          <Empty title={prefix || status ? "No tenant fits" : "There are no tenants yet"}>
            {prefix || status
              ? "The search finds tenants whose name or slug begins with the text."
              : "A tenant holds members, roles and clients of one customer."}
          </Empty>
        }
      />
    </>
  );
}

/** Who administers tenants, and not the platform, sees theirs. */
function OwnTenants() {
  const me = useMe();
  const rows = (me.data?.tenants ?? []).map((t) => ({ id: t.tenant, name: t.name, status: t.status, roles: t.roles }));
  if (rows.length === 0)
    return <Empty title="You belong to no tenant">An administrator adds you to one by your issuer and subject.</Empty>;
  return (
    <DataTable<Row>
      label="Tenants"
      rows={rows}
      columns={[...columns, { key: "roles", header: "Your roles", cell: (t) => (t.roles ?? []).join(", ") || "none" }]}
      rowKey={(t) => t.id}
      onRow={open}
    />
  );
}

/** A slug for a name: what most people type anyway. */
const slugOf = (name: string) =>
  name
    .toLowerCase()
    .normalize("NFKD")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 64);

function CreateTenant({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [id, setId] = useState<string>();
  const [slug, setSlug] = useState<string>();
  const [attributes, setAttributes] = useState("");
  const changed = useChanged();
  const ids = { id: id ?? slugOf(name), slug: slug ?? slugOf(name) };
  return (
    <FormModal
      title="Create a tenant"
      submitLabel="Create"
      onClose={onClose}
      disabled={!name.trim() || !ids.id || !ids.slug || !parseAttributes(attributes)}
      submit={async (key) => {
        const { data } = await api.POST("/v1/tenants", {
          params: { header: { "Idempotency-Key": key } },
          body: { ...ids, name: name.trim(), attributes: parseAttributes(attributes) },
        });
        await changed("/v1/tenants", "/v1/me");
        done(`${name.trim()} is created`);
        navigate(`/tenants/${data!.id}/members`);
      }}
    >
      {(at) => (
        <>
          <TextInput
            label="Name"
            required
            data-autofocus
            value={name}
            onChange={(e) => setName(e.currentTarget.value)}
            error={at("/name")}
            maxLength={200}
          />
          <TextInput
            label="Id"
            required
            description="Of a-z 0-9 _ -. It is permanent, and stands in headers, tokens and URLs."
            value={ids.id}
            onChange={(e) => setId(e.currentTarget.value)}
            error={at("/id")}
            maxLength={64}
          />
          <TextInput
            label="Slug"
            required
            description="Of a-z 0-9 . _ -. It is unique, and can change."
            value={ids.slug}
            onChange={(e) => setSlug(e.currentTarget.value)}
            error={at("/slug")}
            maxLength={64}
          />
          <AttributesInput text={attributes} onChange={setAttributes} error={at("/attributes")} />
        </>
      )}
    </FormModal>
  );
}
