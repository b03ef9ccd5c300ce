import { Button, Checkbox, Group, Stack, Text, Title } from "@mantine/core";
import { useState } from "react";
import { useChanged } from "../../api/changes";
import { api, read, type Schemas, type Versioned } from "../../api/client";
import { usePages } from "../../api/pages";
import { isProblem } from "../../api/problem";
import { useCan } from "../../app/me";
import { PagedTable } from "../../components/DataTable";
import { useDialogs } from "../../components/dialogs";
import { done, FormModal } from "../../components/form";
import { Empty, Failure } from "../../components/states";
import { Time } from "../../components/Time";
import { useLeaving } from "./leaving";
import { RolesSelect, useRoles } from "./roles/RolesSelect";

type GroupBody = Schemas["SCIMGroupBody"];
const onePath = "/v1/tenants/{tenant}/scim-groups/{group}";

export function Groups({ tenant }: { tenant: string }) {
  const can = useCan(tenant);
  const leaving = useLeaving(tenant);
  const changed = useChanged();
  const [editing, setEditing] = useState<Versioned<GroupBody>>();
  const [error, setError] = useState<unknown>();
  const query = usePages("/v1/tenants/{tenant}/scim-groups", { params: { path: { tenant } } });
  const refresh = () => changed("/v1/tenants/{tenant}", "/v1/users/{user}");

  const edit = async (g: GroupBody) => {
    setError(undefined);
    try {
      setEditing(await read(onePath, { params: { path: { tenant, group: g.id } } }));
    } catch (failed) {
      setError(failed);
    }
  };
  const remove = (g: GroupBody) =>
    leaving(
      async (leave) => {
        await api.DELETE(onePath, { params: { path: { tenant, group: g.id }, query: leave } });
        await refresh();
        done(`${g.display_name} is deleted`);
      },
      {
        title: `Delete ${g.display_name}`,
        children: `For a group that its client does not delete. Its ${g.members.toLocaleString()} members lose its roles (${(g.roles ?? []).join(", ") || "none"}), and stay members of the tenant.`,
        confirm: "Delete",
        danger: true,
        type: g.display_name,
      },
    );

  return (
    <Stack>
      <div>
        <Title order={2}>SCIM groups</Title>
        <Text size="sm" c="dimmed">
          A provisioning client creates the groups and their members. What roles they mean is chosen here.
        </Text>
      </div>
      {error !== undefined && <Failure error={error} />}
      <PagedTable<GroupBody>
        label="SCIM groups"
        query={query}
        rowKey={(g) => g.id}
        onRow={can("scim-group:update") ? (g) => void edit(g) : undefined}
        columns={[
          { key: "name", header: "Group", cell: (g) => g.display_name },
          { key: "members", header: "Members", cell: (g) => g.members.toLocaleString(), align: "right", width: 100 },
          { key: "roles", header: "Roles", cell: (g) => (g.roles ?? []).join(", ") || "none" },
          { key: "issuer", header: "Issuer", cell: (g) => g.issuer },
          { key: "updated", header: "Changed", cell: (g) => <Time at={g.updated_at} ago /> },
          ...(can("scim-group:delete")
            ? [
                {
                  key: "delete",
                  header: <span className="hidden">Actions</span>,
                  cell: (g: GroupBody) => (
                    <Button
                      size="compact-sm"
                      variant="subtle"
                      color="red"
                      aria-label={`Delete ${g.display_name}`}
                      onClick={(e) => {
                        e.stopPropagation();
                        void remove(g);
                      }}
                    >
                      Delete
                    </Button>
                  ),
                },
              ]
            : []),
        ]}
        empty={
          <Empty title="There are no SCIM groups">
            A client of this tenant with the scope <code>scim</code> provisions users and groups.
          </Empty>
        }
      />
      {editing && <EditGroup tenant={tenant} base={editing} onClose={() => setEditing(undefined)} refresh={refresh} />}
    </Stack>
  );
}

function EditGroup({
  tenant,
  base,
  onClose,
  refresh,
}: {
  tenant: string;
  base: Versioned<GroupBody>;
  onClose: () => void;
  refresh: () => Promise<void>;
}) {
  const { saveEdit } = useDialogs();
  const leaving = useLeaving(tenant);
  const roles = useRoles(tenant);
  const path = { tenant, group: base.value.id };
  const rolesOf = (g: GroupBody) => ({ roles: g.roles ?? [] });
  const [chosen, setChosen] = useState(base.value.roles ?? []);
  const [held, setHeld] = useState(false);
  const [remove, setRemove] = useState(false);
  const name = base.value.display_name;
  return (
    <FormModal
      title={`Roles of ${name}`}
      submitLabel="Save"
      onClose={onClose}
      submit={async () => {
        let saved = false;
        const answered = await leaving(async (leave) => {
          saved = await saveEdit({
            title: `${name} changed`,
            base: { value: rolesOf(base.value), etag: base.etag },
            mine: { roles: chosen },
            save: (body, etag) =>
              api.PUT(onePath, {
                params: { path, query: { ...leave, ...(remove ? { remove } : {}) }, header: { "If-Match": etag } },
                body,
              }),
            reload: async () => {
              const now = await read(onePath, { params: { path } });
              return { value: rolesOf(now.value), etag: now.etag };
            },
          });
        }).catch((error) => {
          if (isProblem(error, "role_held")) setHeld(true);
          throw error;
        });
        if (answered && saved) {
          await refresh();
          done("Saved");
        }
        return answered && saved;
      }}
    >
      {(at) => (
        <>
          <Text size="sm">
            The {base.value.members.toLocaleString()} members of the group hold these roles at once. Roles of a group
            are not assigned by hand any more.
          </Text>
          <RolesSelect
            label="Roles"
            roles={roles.data?.items ?? []}
            value={chosen}
            onChange={setChosen}
            error={at("/roles")}
          />
          {held && (
            <Group>
              <Checkbox
                label="Revoke the roles from members outside of the group who hold them"
                checked={remove}
                onChange={(e) => setRemove(e.currentTarget.checked)}
              />
            </Group>
          )}
        </>
      )}
    </FormModal>
  );
}
