import { $api } from "../../../api/client";
import { useCan } from "../../../app/me";
import type { RoleNode } from "./graph";

export interface Holders {
  pending: boolean;
  /** Whether the role is granted to anything, as far as the person may see. */
  any: boolean;
  members: number;
  moreMembers: boolean;
  clients: number;
  moreClients: boolean;
  mappings: number;
  roles: string[];
}

/** What a role of a tenant is granted to. */
export function useHolders(tenant: string | undefined, role: string, roles: readonly RoleNode[]): Holders {
  const can = useCan(tenant);
  const path = { tenant: tenant ?? "" };
  const on = (action: string) => tenant !== undefined && can(action);
  const members = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/members",
    { params: { path, query: { role, limit: 500 } } },
    { enabled: on("member:list") },
  );
  const clients = $api.useQuery(
    "get",
    "/v1/clients",
    { params: { query: { tenant, role, limit: 500 } } },
    { enabled: on("client:list") },
  );
  const mappings = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/mappings",
    { params: { path } },
    { enabled: on("mapping:list") },
  );
  const heirs = roles.filter((r) => (r.inherits ?? []).includes(role)).map((r) => r.name);
  const counts = {
    members: members.data?.items?.length ?? 0,
    clients: clients.data?.items?.length ?? 0,
    mappings: (mappings.data?.items ?? []).filter((m) => (m.roles ?? []).includes(role)).length,
  };
  return {
    pending: members.isLoading || clients.isLoading || mappings.isLoading,
    any: counts.members + counts.clients + counts.mappings + heirs.length > 0,
    ...counts,
    moreMembers: !!members.data?.next,
    moreClients: !!clients.data?.next,
    roles: heirs,
  };
}

const count = (n: number, one: string, more = false) =>
  `${more ? "more than " : ""}${n.toLocaleString()} ${n === 1 && !more ? one : `${one}s`}`;

/** "3 members, 1 mapping and the role owner". */
export function holdersText(h: Holders): string {
  const parts = [
    ...(h.members ? [count(h.members, "member", h.moreMembers)] : []),
    ...(h.clients ? [count(h.clients, "client", h.moreClients)] : []),
    ...(h.mappings ? [count(h.mappings, "mapping")] : []),
    ...(h.roles.length ? [`the ${h.roles.length === 1 ? "role" : "roles"} ${h.roles.join(", ")}`] : []),
  ];
  if (parts.length === 0) return "nobody";
  return parts.length === 1 ? parts[0]! : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}
