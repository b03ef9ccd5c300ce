import { MultiSelect, Text } from "@mantine/core";
import { $api, type Schemas } from "../../../api/client";

export type RoleBody = Schemas["RoleBody"];

/** The roles that a tenant sees: its own and the global ones. */
export function useRoles(tenant: string, enabled = true) {
  return $api.useQuery("get", "/v1/tenants/{tenant}/roles", { params: { path: { tenant } } }, { enabled });
}

/** Chooses roles. `disabled` says of some why they cannot be chosen. A list of 1,000 shows the first 50 that fit. */
export function RolesSelect({
  label,
  description,
  error,
  roles,
  value,
  onChange,
  disabled,
  required,
  placeholder = "Choose roles",
}: {
  label: string;
  description?: string;
  error?: string;
  roles: readonly RoleBody[];
  value: string[];
  onChange: (roles: string[]) => void;
  disabled?: ReadonlyMap<string, string>;
  required?: boolean;
  placeholder?: string;
}) {
  const known = new Map(roles.map((r) => [r.name, r]));
  const names = [...known.keys(), ...value.filter((v) => !known.has(v))];
  return (
    <MultiSelect
      label={label}
      description={description}
      error={error}
      required={required}
      placeholder={value.length === 0 ? placeholder : undefined}
      data={names.map((name) => ({ value: name, label: name, disabled: disabled?.has(name) && !value.includes(name) }))}
      value={value}
      onChange={onChange}
      searchable
      clearable={false}
      hidePickedOptions
      limit={50}
      maxDropdownHeight={260}
      nothingFoundMessage="No role is called that"
      comboboxProps={{ withinPortal: true }}
      renderOption={({ option }) => {
        const role = known.get(option.value);
        const why = disabled?.get(option.value);
        return (
          <div>
            <Text size="sm">
              {option.value}
              {role?.global ? " (global)" : ""}
            </Text>
            {(why || role?.description) && (
              <Text size="xs" c="dimmed" lineClamp={1}>
                {why ?? role?.description}
              </Text>
            )}
          </div>
        );
      }}
    />
  );
}
