import { Alert, Badge, Button, Drawer, Group, Select, Stack, Text, TextInput, Title } from "@mantine/core";
import { IconPlus, IconSearch } from "@tabler/icons-react";
import type { UseQueryResult } from "@tanstack/react-query";
import { useDeferredValue, useMemo, useState } from "react";
import { useChanged } from "../../../api/changes";
import { api, read, type Versioned } from "../../../api/client";
import { useCan } from "../../../app/me";
import { type Column, DataTable } from "../../../components/DataTable";
import { done, duration } from "../../../components/form";
import { Empty, Failure, Loaded, Loading } from "../../../components/states";
import { useLeaving } from "../leaving";
import { useParam } from "../params";
import { graphOf, inheritorsOf } from "./graph";
import { holdersText, useHolders } from "./holders";
import { RoleForm } from "./RoleForm";
import type { RoleBody } from "./RolesSelect";

const oneLine = { whiteSpace: "nowrap", overflow: "hidden", textOverflow: "ellipsis", display: "block" } as const;
const few = (names: readonly string[], width: number) => (
  <span style={{ ...oneLine, maxWidth: width }} title={names.join(", ")}>
    {names.length === 0 ? "–" : names.slice(0, 20).join(", ")}
  </span>
);

/** Where a role comes from, in a word. */
const kindOf = (r: RoleBody) =>
  r.name.startsWith("iam:") ? "built in" : r.service ? `of ${r.service}` : r.global ? "global" : "own";

/** A list of roles, of a tenant or the global ones, with its filters and the role that is open. */
export function RoleList({
  tenant,
  query,
}: {
  tenant: string | undefined;
  query: UseQueryResult<{ items: RoleBody[] | null }, unknown>;
}) {
  const can = useCan(tenant);
  const [search, setSearch] = useParam("search");
  const [kind, setKind] = useParam("kind");
  const [open, setOpen] = useParam("role");
  const [creating, setCreating] = useState(false);
  const sought = useDeferredValue(search.trim().toLowerCase());
  const all = useMemo(() => query.data?.items ?? [], [query.data]);
  const heirs = useMemo(() => {
    const direct = new Map<string, string[]>();
    for (const r of all) {
      for (const i of r.inherits ?? []) {
        const known = direct.get(i);
        if (known) known.push(r.name);
        else direct.set(i, [r.name]);
      }
    }
    return direct;
  }, [all]);
  const rows = useMemo(
    () =>
      all.filter(
        (r) =>
          (!kind || (kind === "requestable" ? !!r.request : kind === "global" ? r.global : !r.global)) &&
          (!sought ||
            r.name.includes(sought) ||
            r.description.toLowerCase().includes(sought) ||
            (r.permissions ?? []).some((p) => p.includes(sought))),
      ),
    [all, kind, sought],
  );
  const columns = useMemo<Column<RoleBody>[]>(
    () => [
      { key: "name", header: "Role", cell: (r) => <span style={oneLine}>{r.name}</span> },
      ...(tenant ? [{ key: "kind", header: "Kind", cell: kindOf, width: 110 }] : []),
      { key: "permissions", header: "Permissions", cell: (r) => few(r.permissions ?? [], 260) },
      { key: "inherits", header: "Inherits", cell: (r) => few(r.inherits ?? [], 180) },
      { key: "heirs", header: "Inherited by", cell: (r) => few(heirs.get(r.name) ?? [], 180) },
      {
        key: "request",
        header: "Can be asked for",
        cell: (r) => (r.request ? r.request.approval === "break_glass" ? <BreakGlass /> : "with approval" : "–"),
        width: 150,
      },
    ],
    [tenant, heirs],
  );
  const role = open ? all.find((r) => r.name === open) : undefined;
  return (
    <Stack>
      <Group gap="xs">
        <TextInput
          aria-label="Search roles"
          placeholder="Name, description or permission has"
          leftSection={<IconSearch size={16} />}
          value={search}
          onChange={(e) => setSearch(e.currentTarget.value)}
          w={{ base: "100%", xs: 300 }}
        />
        <Select
          aria-label="Kind"
          placeholder="Any kind"
          data={[
            ...(tenant
              ? [
                  { value: "own", label: "Own roles" },
                  { value: "global", label: "Global roles" },
                ]
              : []),
            { value: "requestable", label: "Can be asked for" },
          ]}
          value={kind || null}
          onChange={(k) => setKind(k ?? "")}
          clearable
          clearButtonProps={{ "aria-label": "Any kind" }}
          w={180}
        />
        {can(tenant ? "role:create" : "global-role:create") && (
          <Button ml="auto" leftSection={<IconPlus size={16} />} onClick={() => setCreating(true)}>
            Create a role
          </Button>
        )}
      </Group>
      <Loaded query={query}>
        {() =>
          rows.length === 0 ? (
            <Empty title={all.length === 0 ? "There are no roles yet" : "No role fits"}>
              A role is a name for permissions. It can inherit other roles.
            </Empty>
          ) : (
            <DataTable
              label="Roles"
              rows={rows}
              columns={columns}
              rowKey={(r) => r.name}
              onRow={(r) => setOpen(r.name)}
              maxHeight="62vh"
              footer={
                <Text size="sm" c="dimmed" mt="xs" role="status">
                  {rows.length.toLocaleString()} {rows.length === 1 ? "role" : "roles"}
                </Text>
              }
            />
          )
        }
      </Loaded>
      {role && (
        <RoleDetail
          key={role.name}
          tenant={tenant}
          role={role}
          roles={all}
          onClose={() => setOpen("")}
          onOpen={setOpen}
        />
      )}
      {open && !role && query.data && (
        <Alert
          color="gray"
          title={`There is no role ${open}`}
          withCloseButton
          closeButtonLabel="Close"
          onClose={() => setOpen("")}
        >
          It may have been deleted.
        </Alert>
      )}
      {creating && <RoleForm tenant={tenant} roles={all} onClose={() => setCreating(false)} />}
    </Stack>
  );
}

export function BreakGlass() {
  return (
    <Badge color="red" variant="light" c="var(--mantine-color-text)" tt="none">
      break glass
    </Badge>
  );
}

function RoleDetail({
  tenant,
  role,
  roles,
  onClose,
  onOpen,
}: {
  tenant: string | undefined;
  role: RoleBody;
  roles: readonly RoleBody[];
  onClose: () => void;
  onOpen: (name: string) => void;
}) {
  const can = useCan(tenant);
  const leaving = useLeaving(tenant ?? "platform");
  const changed = useChanged();
  const [editing, setEditing] = useState<Versioned<RoleBody>>();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  // Roles of a manifest, and the service's own, are changed elsewhere. In a tenant a global role is shown as it is.
  const fixed = role.name.startsWith("iam:") || !!role.service;
  const here = tenant ? !role.global : true;
  const may = (verb: string) => here && !fixed && can(`${tenant ? "role" : "global-role"}:${verb}`);
  const holders = useHolders(tenant, role.name, roles);
  const chains = useMemo(() => inheritorsOf(graphOf(roles), role.name), [roles, role.name]);

  const edit = async () => {
    setBusy(true);
    setError(undefined);
    try {
      setEditing(
        tenant
          ? await read("/v1/tenants/{tenant}/roles/{role}", { params: { path: { tenant, role: role.name } } })
          : await read("/v1/roles/{role}", { params: { path: { role: role.name } } }),
      );
    } catch (failed) {
      setError(failed);
    } finally {
      setBusy(false);
    }
  };

  const remove = () =>
    leaving(
      async (query) => {
        if (tenant) {
          await api.DELETE("/v1/tenants/{tenant}/roles/{role}", {
            params: {
              path: { tenant, role: role.name },
              query: { ...query, ...(holders.any ? { remove: true } : {}) },
            },
          });
        } else await api.DELETE("/v1/roles/{role}", { params: { path: { role: role.name } } });
        onClose();
        await changed("/v1/roles", "/v1/tenants/{tenant}", "/v1/users/{user}");
        done(`${role.name} is deleted`);
      },
      {
        title: `Delete ${role.name}`,
        children: tenant ? (
          <Stack gap="xs">
            <span>{holders.any ? "It is revoked first from all who hold it:" : "It is granted to nobody."}</span>
            {holders.any && <strong>{holdersText(holders)}</strong>}
            <span>It cannot be undone.</span>
          </Stack>
        ) : (
          "A global role must be revoked in each tenant first; while it is in use it is not deleted."
        ),
        confirm: holders.any ? "Revoke and delete" : "Delete",
        danger: true,
        type: holders.any ? role.name : undefined,
      },
    );

  const names = (list: readonly string[] | null | undefined) =>
    (list ?? []).length === 0 ? (
      "none"
    ) : (
      <Group gap={4}>
        {(list ?? []).map((n) => (
          <Button
            key={n}
            size="compact-xs"
            variant="default"
            onClick={() => onOpen(n)}
            disabled={!roles.some((r) => r.name === n)}
          >
            {n}
          </Button>
        ))}
      </Group>
    );

  return (
    <>
      <Drawer
        opened
        onClose={onClose}
        position="right"
        size="lg"
        title={role.name}
        closeButtonProps={{ "aria-label": "Close" }}
        closeOnEscape={!editing}
      >
        <Stack>
          {(may("update") || may("delete")) && (
            <Group gap="xs">
              {may("update") && (
                <Button onClick={() => void edit()} loading={busy} data-autofocus>
                  Edit
                </Button>
              )}
              {may("delete") && (
                <Button variant="outline" color="red" onClick={() => void remove()} disabled={holders.pending}>
                  Delete
                </Button>
              )}
            </Group>
          )}
          {error !== undefined && <Failure error={error} />}
          {role.service && (
            <Text size="sm" c="dimmed">
              The manifest of {role.service} declares it: it changes with that.
            </Text>
          )}
          {tenant && role.global && !role.service && (
            <Text size="sm" c="dimmed">
              A global role: it is the same in every tenant.
            </Text>
          )}
          <dl className="facts">
            <dt>Kind</dt>
            <dd>{kindOf(role)}</dd>
            <dt>Description</dt>
            <dd>{role.description || "none"}</dd>
            <dt>Inherits</dt>
            <dd>{names(role.inherits)}</dd>
            <dt>Inherited by</dt>
            <dd>{names([...chains.keys()])}</dd>
            {role.request && (
              <>
                <dt>Can be asked for by</dt>
                <dd>{names(role.request.by)}</dd>
                <dt>Approval</dt>
                <dd>{role.request.approval === "break_glass" ? <BreakGlass /> : "an administrator approves"}</dd>
                <dt>Longest time</dt>
                <dd>{duration(role.request.max_seconds)}</dd>
              </>
            )}
            {tenant && (
              <>
                <dt>Held by</dt>
                <dd>{holders.pending ? <Loading rows={1} /> : holdersText(holders)}</dd>
              </>
            )}
            <dt>Version</dt>
            <dd>{role.version}</dd>
          </dl>
          <Title order={3}>Permissions</Title>
          {(role.permissions ?? []).length === 0 ? (
            <Text size="sm" c="dimmed">
              None of its own.
            </Text>
          ) : (
            <DataTable
              label="Permissions"
              rows={role.permissions!}
              columns={[{ key: "p", header: "Permission", cell: (p) => <code>{p}</code> }]}
              rowKey={(p) => p}
              maxHeight={320}
            />
          )}
        </Stack>
      </Drawer>
      {editing && <RoleForm tenant={tenant} roles={roles} base={editing} onClose={() => setEditing(undefined)} />}
    </>
  );
}
