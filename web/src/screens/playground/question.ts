// What the draft is asked. All but the token is in the URL.
import type { Question } from "./contract";

export interface Asked {
  how: "user" | "token" | "decision";
  user: string;
  issuer: string;
  client: string;
  tenant: string;
  method: string;
  scheme: string;
  host: string;
  path: string;
  ip: string;
  decision: string;
  /** In memory only. */
  token: string;
}

const params = ["user", "issuer", "client", "tenant", "method", "scheme", "host", "path", "ip", "decision"] as const;

export function askedFrom(search: URLSearchParams): Asked {
  const get = (name: string) => search.get(name) ?? "";
  return {
    how: get("decision") ? "decision" : get("how") === "token" ? "token" : "user",
    user: get("user"),
    issuer: get("issuer"),
    client: get("client"),
    tenant: get("tenant"),
    method: get("method") || "GET",
    scheme: get("scheme") || "https",
    host: get("host"),
    path: get("path") || "/",
    ip: get("ip"),
    decision: get("decision"),
    token: "",
  };
}

const defaults: Partial<Asked> = { method: "GET", scheme: "https", path: "/" };

/** The search of the URL for it: without what is not asked, what is the default, and the token. */
export function searchOf(asked: Asked, before: URLSearchParams): URLSearchParams {
  const next = new URLSearchParams(before);
  for (const name of [...params, "how"]) next.delete(name);
  if (asked.how === "token") next.set("how", "token");
  for (const name of params) {
    const only = name === "decision" ? asked.how === "decision" : asked.how !== "decision";
    const caller = ["user", "issuer", "client"].includes(name);
    if (only && !(caller && asked.how !== "user") && asked[name] && asked[name] !== defaults[name])
      next.set(name, asked[name].trim());
  }
  return next;
}

/** The question of the API; undefined while it is incomplete. */
export function questionOf(asked: Asked): Question | undefined {
  if (asked.how === "decision") return asked.decision.trim() ? { decision: asked.decision.trim() } : undefined;
  const set = (name: string, value: string) => (value.trim() ? { [name]: value.trim() } : {});
  const route = {
    ...set("tenant", asked.tenant),
    request: {
      ...set("method", asked.method),
      ...set("scheme", asked.scheme),
      ...set("host", asked.host),
      ...set("path", asked.path),
      ...set("client_ip", asked.ip),
    },
  };
  if (asked.how === "token") return asked.token.trim() ? { token: asked.token.trim(), ...route } : undefined;
  if (!asked.user.trim() && !asked.client.trim()) return undefined;
  return { ...set("subject", asked.user), ...set("issuer", asked.issuer), ...set("client_id", asked.client), ...route };
}
