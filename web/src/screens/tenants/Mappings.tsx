import { ActionIcon, Autocomplete, Button, Group, Stack, Text, TextInput, Title } from "@mantine/core";
import { IconPlus, IconTrash } from "@tabler/icons-react";
import { useState } from "react";
import { useChanged } from "../../api/changes";
import { $api, api, read, type Schemas, type Versioned } from "../../api/client";
import { useCan, useMe } from "../../app/me";
import { DataTable } from "../../components/DataTable";
import { useDialogs } from "../../components/dialogs";
import { done, FormModal } from "../../components/form";
import { Empty, Failure, Loaded } from "../../components/states";
import { RolesSelect, useRoles } from "./roles/RolesSelect";

type MappingBody = Schemas["MappingBody"];
const onePath = "/v1/tenants/{tenant}/mappings/{mapping}";

export function Mappings({ tenant }: { tenant: string }) {
  const can = useCan(tenant);
  const { confirm } = useDialogs();
  const changed = useChanged();
  const path = { tenant };
  const query = $api.useQuery("get", "/v1/tenants/{tenant}/mappings", { params: { path } });
  const [creating, setCreating] = useState(false);
  const [editing, setEditing] = useState<Versioned<MappingBody>>();
  const [error, setError] = useState<unknown>();
  const refresh = () => changed("/v1/tenants/{tenant}", "/v1/users/{user}");

  const edit = async (m: MappingBody) => {
    setError(undefined);
    try {
      setEditing(await read(onePath, { params: { path: { tenant, mapping: m.id } } }));
    } catch (failed) {
      setError(failed);
    }
  };
  const remove = (m: MappingBody) =>
    confirm({
      title: "Delete the mapping",
      children: `Tokens with ${m.claim} = ${m.value} add no roles any more.`,
      confirm: "Delete",
      danger: true,
      run: async () => {
        await api.DELETE(onePath, { params: { path: { tenant, mapping: m.id } } });
        await refresh();
        done("The mapping is deleted");
      },
    });

  return (
    <Stack>
      <Group justify="space-between" align="flex-start">
        <div>
          <Title order={2}>Mappings</Title>
          <Text size="sm" c="dimmed">
            A claim of the identity provider's token adds roles to members whose token carries it.
          </Text>
        </div>
        {can("mapping:create") && (
          <Button leftSection={<IconPlus size={16} />} onClick={() => setCreating(true)}>
            Create a mapping
          </Button>
        )}
      </Group>
      {error !== undefined && <Failure error={error} />}
      <Loaded query={query}>
        {(data) =>
          (data.items ?? []).length === 0 ? (
            <Empty title="There are no mappings">Members have the roles alone that are assigned to them here.</Empty>
          ) : (
            <DataTable
              label="Mappings"
              rows={data.items!}
              rowKey={(m) => m.id}
              onRow={can("mapping:update") ? (m) => void edit(m) : undefined}
              columns={[
                {
                  key: "claim",
                  header: "Claim",
                  cell: (m) => (
                    <code>
                      {m.claim} = {m.value}
                    </code>
                  ),
                },
                { key: "roles", header: "Roles", cell: (m) => (m.roles ?? []).join(", ") },
                { key: "issuer", header: "Issuer", cell: (m) => m.issuer },
                ...(can("mapping:delete")
                  ? [
                      {
                        key: "delete",
                        header: <span className="hidden">Actions</span>,
                        width: 50,
                        cell: (m: MappingBody) => (
                          <ActionIcon
                            variant="subtle"
                            color="red"
                            aria-label={`Delete ${m.claim} = ${m.value}`}
                            onClick={(e) => {
                              e.stopPropagation();
                              void remove(m);
                            }}
                          >
                            <IconTrash size={16} />
                          </ActionIcon>
                        ),
                      },
                    ]
                  : []),
              ]}
            />
          )
        }
      </Loaded>
      {creating && <CreateMapping tenant={tenant} onClose={() => setCreating(false)} refresh={refresh} />}
      {editing && (
        <EditMapping tenant={tenant} base={editing} onClose={() => setEditing(undefined)} refresh={refresh} />
      )}
    </Stack>
  );
}

function CreateMapping({
  tenant,
  onClose,
  refresh,
}: {
  tenant: string;
  onClose: () => void;
  refresh: () => Promise<void>;
}) {
  const me = useMe();
  const roles = useRoles(tenant);
  const [issuer, setIssuer] = useState(me.data?.issuer ?? "");
  const [claim, setClaim] = useState("groups");
  const [value, setValue] = useState("");
  const [chosen, setChosen] = useState<string[]>([]);
  return (
    <FormModal
      title="Create a mapping"
      submitLabel="Create"
      onClose={onClose}
      disabled={!claim || !value || chosen.length === 0}
      submit={async (key) => {
        await api.POST("/v1/tenants/{tenant}/mappings", {
          params: { path: { tenant }, header: { "Idempotency-Key": key } },
          body: { ...(issuer.trim() ? { issuer: issuer.trim() } : {}), claim, value, roles: chosen },
        });
        await refresh();
        done("The mapping is created");
      }}
    >
      {(at) => (
        <>
          <Autocomplete
            label="Claim"
            description="The default policy reads groups, roles and entitlements."
            required
            data={["groups", "roles", "entitlements"]}
            value={claim}
            onChange={setClaim}
            error={at("/claim")}
            maxLength={255}
          />
          <TextInput
            label="Value"
            description="Equal to the claim, or contained in it."
            required
            data-autofocus
            value={value}
            onChange={(e) => setValue(e.currentTarget.value)}
            error={at("/value")}
            maxLength={255}
          />
          <RolesSelect
            label="Roles"
            required
            roles={roles.data?.items ?? []}
            value={chosen}
            onChange={setChosen}
            error={at("/roles")}
          />
          <TextInput
            label="Issuer"
            description="Of the tokens. Empty: R-Auth."
            value={issuer}
            onChange={(e) => setIssuer(e.currentTarget.value)}
            error={at("/issuer")}
            maxLength={512}
          />
        </>
      )}
    </FormModal>
  );
}

function EditMapping({
  tenant,
  base,
  onClose,
  refresh,
}: {
  tenant: string;
  base: Versioned<MappingBody>;
  onClose: () => void;
  refresh: () => Promise<void>;
}) {
  const { saveEdit } = useDialogs();
  const roles = useRoles(tenant);
  const path = { tenant, mapping: base.value.id };
  const rolesOf = (m: MappingBody) => ({ roles: m.roles ?? [] });
  const [chosen, setChosen] = useState(base.value.roles ?? []);
  const title = `${base.value.claim} = ${base.value.value}`;
  return (
    <FormModal
      title={`Edit ${title}`}
      submitLabel="Save"
      onClose={onClose}
      disabled={chosen.length === 0}
      submit={async () => {
        const saved = await saveEdit({
          title: `${title} changed`,
          base: { value: rolesOf(base.value), etag: base.etag },
          mine: { roles: chosen },
          save: (body, etag) => api.PUT(onePath, { params: { path, header: { "If-Match": etag } }, body }),
          reload: async () => {
            const now = await read(onePath, { params: { path } });
            return { value: rolesOf(now.value), etag: now.etag };
          },
        });
        if (saved) {
          await refresh();
          done("Saved");
        }
        return saved;
      }}
    >
      {(at) => (
        <RolesSelect
          label="Roles"
          required
          roles={roles.data?.items ?? []}
          value={chosen}
          onChange={setChosen}
          error={at("/roles")}
        />
      )}
    </FormModal>
  );
}
