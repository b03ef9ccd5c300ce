// Routes are in the fragment (#/tenants/acme?tab=roles), so that the page works below any path prefix and the server has
// one page. wouter takes these hooks.
import { useSyncExternalStore } from "react";

const subscribe = (notify: () => void) => {
  addEventListener("hashchange", notify);
  return () => removeEventListener("hashchange", notify);
};

const current = () => location.hash.replace(/^#/, "") || "/";
const path = () => current().split("?")[0] || "/";
const search = () => current().split("?")[1] ?? "";

export function navigate(to: string, options: { replace?: boolean } = {}): void {
  const hash = `#${to.startsWith("/") ? to : `/${to}`}`;
  if (options.replace) {
    history.replaceState(history.state, "", hash);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = hash;
  }
}

export const useHashLocation = (): [string, typeof navigate] => [useSyncExternalStore(subscribe, path), navigate];
useHashLocation.hrefs = (href: string) => `#${href}`;

export const useHashSearch = () => useSyncExternalStore(subscribe, search);
