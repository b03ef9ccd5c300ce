// Which settings of a client go together: what the admin API accepts (RFC 7591, RFC 9700), and why the rest is not on offer.
import type { Schemas } from "../../api/client";

export type Client = Schemas["ClientBody"];
export type ClientPut = Schemas["ClientPut"];

export type AuthMethod = "none" | "client_secret_basic" | "client_secret_post" | "private_key_jwt";

export const authMethods: { value: AuthMethod; label: string; about: string }[] = [
  {
    value: "client_secret_basic",
    label: "Secret, in the Authorization header",
    about: "Confidential: a server that can store a secret. The usual choice.",
  },
  {
    value: "client_secret_post",
    label: "Secret, in the body",
    about: "Confidential: for libraries that cannot send the header.",
  },
  {
    value: "private_key_jwt",
    label: "Key of its own (private_key_jwt)",
    about: "Confidential: it signs with a private key, which never leaves it. No secret to rotate.",
  },
  {
    value: "none",
    label: "None: a public client",
    about: "An application in a browser or on a device, which cannot store a secret. PKCE protects its codes.",
  },
];

export const grantTypes = ["authorization_code", "refresh_token", "client_credentials"] as const;
export type GrantType = (typeof grantTypes)[number];

export const grantLabels: Record<GrantType, string> = {
  authorization_code: "Authorization code: people sign in",
  refresh_token: "Refresh token: it stays signed in",
  client_credentials: "Client credentials: it acts in its own name",
};

/** What a form holds. Texts stay as they are typed, also where they do not count now. */
export interface Draft {
  tenant: string;
  client_name: string;
  auth: AuthMethod;
  grants: GrantType[];
  redirects: string;
  logouts: string;
  jwks: string;
  jwks_uri: string;
  roles: string[];
  scopes: string[];
  audience: string[];
}

export const emptyDraft = (tenant: string | undefined): Draft => ({
  tenant: tenant ?? "",
  client_name: "",
  auth: "client_secret_basic",
  grants: ["authorization_code"],
  redirects: "",
  logouts: "",
  jwks: "",
  jwks_uri: "",
  roles: [],
  scopes: [],
  audience: [],
});

export const draftOf = (c: Client): Draft => ({
  tenant: c.tenant ?? "",
  client_name: c.client_name ?? "",
  auth: (c.token_endpoint_auth_method as AuthMethod | undefined) ?? "client_secret_basic",
  grants: (c.grant_types ?? []) as GrantType[],
  redirects: (c.redirect_uris ?? []).join("\n"),
  logouts: (c.post_logout_redirect_uris ?? []).join("\n"),
  jwks: c.jwks ? JSON.stringify(c.jwks, null, 2) : "",
  jwks_uri: c.jwks_uri ?? "",
  roles: c.roles ?? [],
  scopes: c.scopes ?? [],
  audience: c.audience ?? [],
});

/** Why a grant type is not to choose: it cannot be, or it must be. */
export function grantFixed(draft: Draft, grant: GrantType): { on: boolean; why: string } | undefined {
  const isPublic = draft.auth === "none";
  if (grant === "authorization_code" && isPublic)
    return { on: true, why: "A public client needs it: it has no credentials of its own." };
  if (grant === "client_credentials" && isPublic)
    return { on: false, why: "A public client has no credentials (RFC 6749, section 4.4)." };
  if (grant === "refresh_token" && !draft.grants.includes("authorization_code"))
    return { on: false, why: "It goes with authorization code only." };
  return undefined;
}

/** The draft with what must be on and what must be off. */
export function settled(draft: Draft): Draft {
  const grants = new Set(draft.grants);
  for (const grant of grantTypes) {
    const fixed = grantFixed({ ...draft, grants: [...grants] }, grant);
    if (fixed?.on) grants.add(grant);
    else if (fixed) grants.delete(grant);
  }
  return { ...draft, grants: grantTypes.filter((g) => grants.has(g)) };
}

export const lines = (text: string) =>
  text
    .split(/\s+/)
    .map((s) => s.trim())
    .filter((s) => s !== "");

/** Why a redirect URI is not accepted, as far as the page can know; the service checks the rest. */
export function badRedirect(uri: string, isPublic: boolean): string | undefined {
  let url: URL;
  try {
    url = new URL(uri);
  } catch {
    return "must be an absolute URI such as https://app.example.com/callback";
  }
  if (uri.includes("*")) return "must be exact: no wildcard (RFC 9700, section 2.1)";
  if (uri.includes("#")) return "must have no fragment (RFC 6749, section 3.1.2)";
  if (url.username || url.password) return "must have no user in it";
  if (url.protocol === "https:") return undefined;
  const loopback = url.hostname === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(url.hostname);
  if (url.protocol === "http:") {
    if (isPublic && loopback) return undefined;
    return isPublic
      ? "must be https, or http on 127.0.0.1 or [::1] (RFC 8252, section 7.3)"
      : "must be https; http is for public clients on 127.0.0.1 or [::1]";
  }
  if (isPublic && url.protocol.includes(".") && !uri.includes("://")) return undefined;
  return isPublic
    ? "must be https, or a scheme that is a domain the other way round, as in com.example.app:/callback (RFC 8252, section 7.1)"
    : "must be https";
}

/** Faults of one URI a line, as a sentence. */
export function badRedirects(text: string, isPublic: boolean): string | undefined {
  const faults = lines(text).flatMap((uri) => {
    const why = badRedirect(uri, isPublic);
    return why ? [`${uri} ${why}`] : [];
  });
  return faults.length > 0 ? faults.join("; ") : undefined;
}

const sorted = (list: string[]) => [...new Set(list)].sort();

/** The keys as JSON; undefined while they are none. */
export function parseKeys(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What the API receives: of the draft, what counts. */
export function putOf(d: Draft): ClientPut {
  const code = d.grants.includes("authorization_code");
  const keys = d.auth === "private_key_jwt";
  return {
    client_name: d.client_name.trim(),
    token_endpoint_auth_method: d.auth,
    grant_types: sorted(d.grants),
    response_types: code ? ["code"] : [],
    redirect_uris: code ? sorted(lines(d.redirects)) : [],
    post_logout_redirect_uris: code ? sorted(lines(d.logouts)) : [],
    ...(keys && d.jwks_uri.trim() ? { jwks_uri: d.jwks_uri.trim() } : {}),
    ...(keys && d.jwks.trim() ? { jwks: parseKeys(d.jwks) } : {}),
    roles: sorted(d.roles),
    scopes: sorted(d.scopes),
    ...(d.audience.length > 0 ? { audience: sorted(d.audience) } : {}),
  };
}

export const hasSecret = (method: string | undefined) => method?.startsWith("client_secret_") ?? false;
