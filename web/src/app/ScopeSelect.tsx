import { Select } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useState } from "react";
import { $api } from "../api/client";
import { useMe } from "./me";
import { chooseTenant, useScope } from "./scope";

/** Chooses the tenant whose clients, decisions, access and audit log the screens show. */
export function ScopeSelect() {
  const me = useMe();
  const { tenant, platform } = useScope();
  const [query, setQuery] = useState("");
  const [search] = useDebouncedValue(query, 150);
  const found = $api.useQuery(
    "get",
    "/v1/tenants",
    { params: { query: { limit: 20, ...(search && search !== tenant ? { search } : {}) } } },
    { enabled: platform },
  );
  const options = platform
    ? (found.data?.items ?? []).map((t) => ({ value: t.id, label: t.name }))
    : (me.data?.tenants ?? []).map((t) => ({ value: t.tenant, label: t.name }));
  if (tenant && !options.some((o) => o.value === tenant)) options.unshift({ value: tenant, label: tenant });
  if (!platform && options.length === 0) return null;
  return (
    <Select
      aria-label="Tenant"
      placeholder={platform ? "All tenants" : "Tenant"}
      size="xs"
      w={{ base: 120, sm: 200 }}
      searchable
      clearable={platform}
      clearButtonProps={{ "aria-label": "All tenants" }}
      data={options}
      value={tenant ?? null}
      onChange={(value) => chooseTenant(value ?? undefined)}
      onSearchChange={setQuery}
      filter={platform ? ({ options: all }) => all : undefined}
      nothingFoundMessage="No tenant begins with that"
    />
  );
}
