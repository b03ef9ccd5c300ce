import { useQueries } from "@tanstack/react-query";
import { api, type Schemas } from "../../api/client";
import { useCan } from "../../app/me";

/** The name of an id: of a user the subject, as far as the person may see it; else the id, shortened where it is long. */
export type NameOf = (id: string, user: boolean) => string;

const uuid = /^[0-9a-f]{8}-[0-9a-f-]{27}$/;
const most = 60; // look-ups of one screen

/** Looks up the users that entries name. */
export function useNames(entries: Schemas["AuditBody"][], tenant: string | undefined): NameOf {
  const can = useCan(tenant);
  const users = can("user:read");
  const members = !users && tenant !== undefined && can("member:read");
  const ids = new Set<string>();
  if (users || members)
    for (const e of entries) {
      if (e.actor_kind === "user") ids.add(e.actor);
      if (e.kind === "member" || e.kind === "user") ids.add(e.object);
      if (ids.size >= most) break;
    }
  const list = [...ids].filter((id) => uuid.test(id));
  const found = useQueries({
    queries: list.map((user) => ({
      queryKey: ["name of user", user, users ? "" : tenant],
      staleTime: 600_000,
      retry: false,
      queryFn: async () => {
        if (users) return (await api.GET("/v1/users/{user}", { params: { path: { user } } })).data?.subject ?? "";
        return (
          (await api.GET("/v1/tenants/{tenant}/members/{user}", { params: { path: { tenant: tenant!, user } } })).data
            ?.subject ?? ""
        );
      },
    })),
  });
  const names = new Map(list.map((id, i) => [id, found[i]?.data]));
  return (id, user) => (user && names.get(id)) || (uuid.test(id) ? `${id.slice(0, 8)}…` : id);
}
