import { useDebouncedValue } from "@mantine/hooks";
import { Spotlight, type SpotlightActionData } from "@mantine/spotlight";
import { IconArrowsExchange, IconBuilding, IconSearch, IconUser } from "@tabler/icons-react";
import { useState } from "react";
import { $api } from "../api/client";
import { navigate } from "./location";
import { useMe } from "./me";
import { useSections } from "./Shell";

const decision = /^(?:.*\/decisions\/)?([0-9a-f-]{16,64})$/i;

/**
 * The command palette: goes to a section, a tenant, a user by subject, or a decision, whose id or a problem's `instance` can
 * be pasted.
 */
export function Palette() {
  const [query, setQuery] = useState("");
  const [search] = useDebouncedValue(query.trim(), 150);
  const me = useMe();
  const can = (action: string) => me.data?.actions?.includes(action) ?? false;
  const tenants = $api.useQuery(
    "get",
    "/v1/tenants",
    { params: { query: { search, limit: 5 } } },
    { enabled: search !== "" && can("tenant:list") },
  );
  const users = $api.useQuery(
    "get",
    "/v1/users",
    { params: { query: { subject: search, limit: 5 } } },
    { enabled: search !== "" && can("user:list") },
  );

  const go = (to: string) => () => navigate(to);
  const actions: SpotlightActionData[] = useSections()
    .filter((s) => s.label.toLowerCase().includes(query.trim().toLowerCase()))
    .map((s) => ({ id: s.to, label: s.label, leftSection: <s.icon size={18} />, onClick: go(s.to) }));
  if (search !== "") {
    const known = can("tenant:list")
      ? (tenants.data?.items ?? []).map((t) => ({ id: t.id, name: t.name }))
      : (me.data?.tenants ?? []).map((t) => ({ id: t.tenant, name: t.name ?? t.tenant }));
    for (const t of known.filter(
      (t) => can("tenant:list") || `${t.id} ${t.name}`.toLowerCase().includes(search.toLowerCase()),
    )) {
      actions.push({
        id: `tenant ${t.id}`,
        label: t.name,
        description: `Tenant ${t.id}`,
        leftSection: <IconBuilding size={18} />,
        onClick: go(`/tenants/${t.id}`),
      });
    }
    for (const u of users.data?.items ?? []) {
      actions.push({
        id: `user ${u.id}`,
        label: u.subject,
        description: `User of ${u.issuer}`,
        leftSection: <IconUser size={18} />,
        onClick: go(`/users/${u.id}`),
      });
    }
    const id = decision.exec(search)?.[1];
    if (id)
      actions.push({
        id: `decision ${id}`,
        label: `Decision ${id}`,
        leftSection: <IconArrowsExchange size={18} />,
        onClick: go(`/decisions/${id}`),
      });
  }
  return (
    <Spotlight
      actions={actions}
      query={query}
      onQueryChange={setQuery}
      filter={(_, all) => all}
      shortcut={["mod + K", "/"]}
      nothingFound="Nothing found"
      scrollable
      maxHeight={420}
      searchProps={{
        leftSection: <IconSearch size={18} />,
        placeholder: "Section, tenant, subject, decision",
        "aria-label": "Find",
      }}
    />
  );
}
