// The tenant that the person looks at, or the whole platform: who may see one tenant alone always looks at one.
import { useSyncExternalStore } from "react";
import { useMe } from "./me";

const key = "iam-console-tenant";
let chosen = localStorage.getItem(key) ?? "";
const listeners = new Set<() => void>();

export function chooseTenant(tenant: string | undefined): void {
  chosen = tenant ?? "";
  localStorage.setItem(key, chosen);
  for (const notify of listeners) notify();
}

const subscribe = (notify: () => void) => {
  listeners.add(notify);
  return () => listeners.delete(notify);
};

/** The tenant in whose scope screens ask, and whether the person may ask about the whole platform. */
export function useScope(): { tenant: string | undefined; platform: boolean } {
  const stored = useSyncExternalStore(subscribe, () => chosen);
  const me = useMe();
  const platform = me.data?.actions.includes("tenant:list") ?? false;
  if (platform) return { tenant: stored || undefined, platform };
  const own = (me.data?.tenants ?? []).map((t) => t.tenant);
  return { tenant: own.includes(stored) ? stored : own[0], platform };
}
