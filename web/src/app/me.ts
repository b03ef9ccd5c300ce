// What the person may do. The server decides again on each request: this hides what would be refused.
import { useQuery } from "@tanstack/react-query";
import { $api } from "../api/client";

/** Who the person is, with the actions that the active policy authorizes on the platform. */
export function useMe() {
  return $api.useQuery("get", "/v1/me", {}, { staleTime: 60_000 });
}

/** Whether the person may do an action: on the platform, or in a tenant. False until it is known. */
export function useCan(tenant?: string): (action: string) => boolean {
  const platform = useMe();
  const within = useQuery({
    ...$api.queryOptions("get", "/v1/me", { params: { query: { tenant } } }),
    enabled: tenant !== undefined,
    staleTime: 60_000,
  });
  const actions = new Set([...(platform.data?.actions ?? []), ...(within.data?.tenant_actions ?? [])]);
  return (action) => actions.has(action);
}
