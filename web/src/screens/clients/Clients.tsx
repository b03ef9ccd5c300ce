import { Button, Group, Select, Tabs, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { IconPlus } from "@tabler/icons-react";
import { useState } from "react";
import { useSearchParams } from "wouter";
import { useChanged } from "../../api/changes";
import { api } from "../../api/client";
import { usePages } from "../../api/pages";
import { navigate } from "../../app/location";
import { useCan, useMe } from "../../app/me";
import { useScope } from "../../app/scope";
import { type Column, PagedTable } from "../../components/DataTable";
import { Page } from "../../components/Page";
import { Status } from "../../components/Status";
import { Empty } from "../../components/states";
import { Time } from "../../components/Time";
import { ClientForm } from "./ClientForm";
import { Drift } from "./Drift";
import { type Client, emptyDraft, putOf } from "./rules";
import { SecretDialog } from "./SecretDialog";

const open = (id: string) => navigate(`/clients/${encodeURIComponent(id)}`);

export default function Clients() {
  const { tenant } = useScope();
  const can = useCan(tenant);
  const changed = useChanged();
  const [search, setSearch] = useSearchParams();
  const [creating, setCreating] = useState(false);
  const [created, setCreated] = useState<{ client: Client; pending: boolean } | undefined>();
  const drift = search.get("view") === "drift";
  const create = async (draft: Parameters<typeof putOf>[0], key: string) => {
    const { data, response } = await api.POST("/v1/clients", {
      params: { header: { "Idempotency-Key": key } },
      body: { ...putOf(draft), ...(draft.tenant ? { tenant: draft.tenant } : {}) },
    });
    setCreated({ client: data as Client, pending: response.status === 202 });
  };
  return (
    <Page
      title="Clients"
      description={
        tenant
          ? `Applications and programs of ${tenant}`
          : "Applications and programs of all tenants and of the platform"
      }
      actions={
        can("client:create") && (
          <Button leftSection={<IconPlus size={16} />} onClick={() => setCreating(true)}>
            Create client
          </Button>
        )
      }
    >
      {can("drift:read") ? (
        <Tabs
          value={drift ? "drift" : "all"}
          onChange={(view) => setSearch(view === "drift" ? { view } : {}, { replace: true })}
          keepMounted={false}
        >
          <Tabs.List mb="md">
            <Tabs.Tab value="all">All clients</Tabs.Tab>
            <Tabs.Tab value="drift">Drift</Tabs.Tab>
          </Tabs.List>
          <Tabs.Panel value="all">
            <List />
          </Tabs.Panel>
          <Tabs.Panel value="drift">
            <Drift />
          </Tabs.Panel>
        </Tabs>
      ) : (
        <List />
      )}
      {creating && (
        <ClientForm
          title="Create client"
          submitLabel="Create"
          creates
          initial={emptyDraft(tenant)}
          submit={create}
          onClose={() => setCreating(false)}
        />
      )}
      {created && (
        <SecretDialog
          {...created}
          onClose={() => {
            void changed("/v1/clients");
            open(created.client.client_id);
          }}
        />
      )}
    </Page>
  );
}

const filters = ["name", "status", "sync", "type"] as const;

const columns: Column<Client>[] = [
  { key: "name", header: "Name", cell: (c) => c.client_name || `${c.client_id.slice(0, 8)}… (not managed)` },
  { key: "tenant", header: "Tenant", cell: (c) => c.tenant || "platform" },
  { key: "type", header: "Type", cell: (c) => c.type ?? "–" },
  { key: "status", header: "Status", cell: (c) => <Status value={c.status} /> },
  { key: "sync", header: "Identity provider", cell: (c) => (c.sync ? <Status value={c.sync} /> : "not managed") },
  {
    key: "secret",
    header: "Secret",
    cell: (c) =>
      c.old_secret_until
        ? "two overlap"
        : c.secret_state && c.secret_state !== "none"
          ? c.secret_state.replace("_", " ")
          : "–",
  },
  { key: "updated", header: "Changed", align: "right", cell: (c) => <Time at={c.updated_at} ago /> },
];

function List() {
  const { tenant } = useScope();
  const me = useMe();
  const [search, setSearch] = useSearchParams();
  const query: Record<string, string> = tenant ? { tenant } : {};
  for (const name of filters) {
    const value = search.get(name);
    if (value) query[name] = value;
  }
  const set = (name: string, value: string | undefined | null) =>
    setSearch(
      (was) => {
        const next = new URLSearchParams(was);
        if (value) next.set(name, value);
        else next.delete(name);
        return next;
      },
      { replace: true },
    );
  const [typed, setTyped] = useState(search.get("name") ?? "");
  const searchName = useDebouncedCallback((value: string) => set("name", value.trim()), 250);
  const pages = usePages("/v1/clients", { params: { query: query as { tenant?: string } } }, { enabled: me.isSuccess });
  const filtered = filters.some((name) => search.get(name));
  const choice = (name: string, label: string, data: { value: string; label: string }[]) => (
    <Select
      size="xs"
      w={140}
      label={label}
      placeholder="any"
      clearable
      clearButtonProps={{ "aria-label": `Any ${label.toLowerCase()}` }}
      data={data}
      value={search.get(name)}
      onChange={(value) => set(name, value)}
    />
  );
  return (
    <>
      <Group gap="xs" align="flex-end" mb="md" component="search">
        <TextInput
          size="xs"
          label="Name contains"
          value={typed}
          onChange={(e) => {
            setTyped(e.currentTarget.value);
            searchName(e.currentTarget.value);
          }}
        />
        {choice("status", "Status", [
          { value: "active", label: "active" },
          { value: "blocked", label: "blocked" },
          { value: "deleted", label: "deleted" },
        ])}
        {choice("sync", "Identity provider", [
          { value: "in_sync", label: "in sync" },
          { value: "pending", label: "pending" },
          { value: "failed", label: "failed" },
        ])}
        {choice("type", "Type", [
          { value: "public", label: "public" },
          { value: "confidential", label: "confidential" },
        ])}
      </Group>
      <PagedTable
        label="Clients"
        query={pages}
        columns={columns}
        rowKey={(c) => c.client_id}
        onRow={(c) => open(c.client_id)}
        empty={
          filtered ? (
            <Empty title="No client matches">Remove a filter.</Empty>
          ) : (
            <Empty title="No clients yet">
              An application that signs people in, or a program that acts in its own name, needs a client in the
              identity provider. Created here, it has roles in its tenant.
            </Empty>
          )
        }
      />
    </>
  );
}
