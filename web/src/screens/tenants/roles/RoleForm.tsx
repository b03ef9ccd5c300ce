import { Fieldset, Select, Stack, Switch, TagsInput, Text, Textarea, TextInput } from "@mantine/core";
import { useMemo, useState } from "react";
import { useChanged } from "../../../api/changes";
import { api, read, type Schemas, type Versioned } from "../../../api/client";
import { useDialogs } from "../../../components/dialogs";
import { DurationInput, done, type FieldErrors, FormModal } from "../../../components/form";
import { useLeaving } from "../leaving";
import { cyclesOf, graphOf, inheritedBy } from "./graph";
import { type RoleBody, RolesSelect } from "./RolesSelect";

type Rule = Schemas["RoleRequestRule"];

interface RoleFields {
  description: string;
  permissions: string[];
  inherits: string[];
  request: Rule | undefined;
}

const fieldsOf = (r: RoleBody): RoleFields => ({
  description: r.description,
  permissions: r.permissions ?? [],
  inherits: r.inherits ?? [],
  request: r.request,
});

const permission = /^[a-z0-9][a-z0-9._:-]{0,63}$/;

function Fields({
  name,
  roles,
  value,
  onChange,
  at,
}: {
  name: string;
  roles: readonly RoleBody[];
  value: RoleFields;
  onChange: (v: RoleFields) => void;
  at: FieldErrors;
}) {
  const [invalid, setInvalid] = useState("");
  const set = (part: Partial<RoleFields>) => onChange({ ...value, ...part });
  const graph = useMemo(() => graphOf(roles), [roles]);
  const cycles = useMemo(() => cyclesOf(graph, name), [graph, name]);
  const known = useMemo(() => [...new Set(roles.flatMap((r) => r.permissions ?? []))].sort(), [roles]);
  const inherited = useMemo(() => {
    const all = new Set(value.inherits);
    for (const i of value.inherits) for (const further of inheritedBy(graph, i)) all.add(further);
    return roles.filter((r) => all.has(r.name)).flatMap((r) => r.permissions ?? []);
  }, [graph, roles, value.inherits]);
  const rule = value.request;
  return (
    <>
      <Textarea
        label="Description"
        autosize
        minRows={1}
        maxLength={1000}
        value={value.description}
        onChange={(e) => set({ description: e.currentTarget.value })}
        error={at("/description")}
      />
      <TagsInput
        label="Permissions"
        description="Each of a-z 0-9 . _ : -. Press Enter after each."
        data={known}
        limit={50}
        maxDropdownHeight={220}
        splitChars={[",", " ", "\n"]}
        acceptValueOnBlur
        value={value.permissions}
        onChange={(all) => {
          const wrong = all.filter((p) => !permission.test(p));
          setInvalid(wrong.length > 0 ? `${wrong.join(", ")}: only a-z 0-9 . _ : - are allowed, 64 at most` : "");
          set({ permissions: all.filter((p) => permission.test(p)) });
        }}
        error={at("/permissions") ?? (invalid || undefined)}
      />
      <RolesSelect
        label="Inherits"
        description="Its holders have the permissions of these roles too."
        placeholder="Choose roles"
        roles={roles}
        value={value.inherits}
        onChange={(inherits) => set({ inherits })}
        disabled={cycles}
        error={at("/inherits")}
      />
      {inherited.length > 0 && (
        <Text size="sm" c="dimmed">
          Inherits the permissions {[...new Set(inherited)].slice(0, 12).join(", ")}
          {new Set(inherited).size > 12 ? ", …" : ""}
        </Text>
      )}
      <Switch
        label="It can be asked for, for a time"
        checked={rule !== undefined}
        onChange={(e) =>
          set({
            request: e.currentTarget.checked ? { by: [], approval: "required", max_seconds: 8 * 3600 } : undefined,
          })
        }
      />
      {rule && (
        <Fieldset legend="Requests for this role">
          <Stack gap="sm">
            <RolesSelect
              label="Who can ask"
              description="Holders of one of these roles, also by inheritance."
              required
              roles={roles}
              value={rule.by ?? []}
              onChange={(by) => set({ request: { ...rule, by } })}
              error={at("/request/by")}
            />
            <Select
              label="Approval"
              allowDeselect={false}
              data={[
                { value: "required", label: "An administrator approves" },
                { value: "break_glass", label: "Break glass: granted at once, with an alert" },
              ]}
              value={rule.approval}
              onChange={(approval) => approval && set({ request: { ...rule, approval: approval as Rule["approval"] } })}
              error={at("/request/approval")}
            />
            <DurationInput
              label="Longest time"
              value={rule.max_seconds}
              onChange={(max_seconds) => set({ request: { ...rule, max_seconds } })}
              error={at("/request/max_seconds")}
            />
          </Stack>
        </Fieldset>
      )}
    </>
  );
}

/** Roles of a tenant, or without one the global ones. */
export function RoleForm({
  tenant,
  roles,
  base,
  onClose,
}: {
  tenant: string | undefined;
  roles: readonly RoleBody[];
  /** The role to edit; absent: a new one. */
  base?: Versioned<RoleBody>;
  onClose: () => void;
}) {
  const { saveEdit } = useDialogs();
  const leaving = useLeaving(tenant ?? "platform");
  const changed = useChanged();
  const [name, setName] = useState(base?.value.name ?? "");
  const [value, setValue] = useState<RoleFields>(
    base ? fieldsOf(base.value) : { description: "", permissions: [], inherits: [], request: undefined },
  );
  const refresh = () => changed("/v1/roles", "/v1/tenants/{tenant}", "/v1/users/{user}");

  const create = async (key: string) => {
    const header = { "Idempotency-Key": key };
    const body = { name, ...value };
    if (tenant) await api.POST("/v1/tenants/{tenant}/roles", { params: { path: { tenant }, header }, body });
    else await api.POST("/v1/roles", { params: { header }, body });
    await refresh();
    done(`${name} is created`);
  };

  const save = async (edited: Versioned<RoleBody>) => {
    let saved = false;
    const answered = await leaving(async (query) => {
      saved = await saveEdit<RoleFields>({
        title: `${name} changed`,
        base: { value: fieldsOf(edited.value), etag: edited.etag },
        mine: value,
        save: (body, etag) => {
          const header = { "If-Match": etag };
          return tenant
            ? api.PUT("/v1/tenants/{tenant}/roles/{role}", {
                params: { path: { tenant, role: name }, query, header },
                body,
              })
            : api.PUT("/v1/roles/{role}", { params: { path: { role: name }, header }, body });
        },
        reload: async () => {
          const now = tenant
            ? await read("/v1/tenants/{tenant}/roles/{role}", { params: { path: { tenant, role: name } } })
            : await read("/v1/roles/{role}", { params: { path: { role: name } } });
          return { value: fieldsOf(now.value), etag: now.etag };
        },
      });
    });
    if (answered && saved) {
      await refresh();
      done("Saved");
    }
    return answered && saved;
  };

  return (
    <FormModal
      title={base ? `Edit ${name}` : tenant ? "Create a role" : "Create a global role"}
      submitLabel={base ? "Save" : "Create"}
      onClose={onClose}
      disabled={!name || (value.request && (value.request.by ?? []).length === 0)}
      submit={(key) => (base ? save(base) : create(key))}
    >
      {(at) => (
        <>
          {!base && (
            <TextInput
              label="Name"
              required
              data-autofocus
              description={`1 to 64 of a-z 0-9 . _ -. It is permanent.${tenant ? "" : " Every tenant sees it."}`}
              value={name}
              onChange={(e) => setName(e.currentTarget.value)}
              error={
                at("/name") ??
                (name !== "" && roles.some((r) => r.name === name) ? "There is a role of this name" : undefined)
              }
              maxLength={64}
            />
          )}
          <Fields name={name} roles={roles} value={value} onChange={setValue} at={at} />
        </>
      )}
    </FormModal>
  );
}
