import {
  Alert,
  Checkbox,
  JsonInput,
  MultiSelect,
  Radio,
  Select,
  Stack,
  TagsInput,
  Text,
  Textarea,
  TextInput,
} from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useState } from "react";
import { $api } from "../../api/client";
import { useMe } from "../../app/me";
import { type FieldErrors, FormModal } from "../../components/form";
import {
  type AuthMethod,
  authMethods,
  badRedirects,
  type Draft,
  type GrantType,
  grantFixed,
  grantLabels,
  grantTypes,
  hasSecret,
  parseKeys,
  settled,
} from "./rules";

/** The form of a client, new or not. Its combinations are those that the API accepts; it says why the others are off. */
export function ClientForm({
  title,
  submitLabel,
  initial,
  creates = false,
  submit,
  onClose,
}: {
  title: string;
  submitLabel: string;
  initial: Draft;
  creates?: boolean;
  submit: (draft: Draft, key: string) => Promise<unknown>;
  onClose: () => void;
}) {
  const [draft, setDraft] = useState(initial);
  const change = (part: Partial<Draft>) => setDraft((was) => settled({ ...was, ...part }));
  return (
    <FormModal title={title} submitLabel={submitLabel} submit={(key) => submit(draft, key)} onClose={onClose} size="xl">
      {(at) => (
        <>
          {creates && <Tenant draft={draft} change={change} error={at("/tenant")} />}
          <TextInput
            label="Name"
            required
            maxLength={200}
            data-autofocus
            value={draft.client_name}
            onChange={(e) => change({ client_name: e.currentTarget.value })}
            error={at("/client_name")}
          />
          <Authentication draft={draft} change={change} at={at} initial={initial} creates={creates} />
          <Grants draft={draft} change={change} error={at("/grant_types") ?? at("/response_types")} />
          <Redirects draft={draft} change={change} at={at} />
          <Reach draft={draft} change={change} at={at} />
        </>
      )}
    </FormModal>
  );
}

interface Part {
  draft: Draft;
  change: (part: Partial<Draft>) => void;
}

function Tenant({ draft, change, error }: Part & { error: string | undefined }) {
  const me = useMe();
  const platform = me.data?.actions?.includes("client:create") ?? false;
  const [typed, setTyped] = useState("");
  const [search] = useDebouncedValue(typed, 150);
  const found = $api.useQuery(
    "get",
    "/v1/tenants",
    { params: { query: { limit: 20, ...(search && search !== draft.tenant ? { search } : {}) } } },
    { enabled: platform },
  );
  const options = platform
    ? (found.data?.items ?? []).map((t) => ({ value: t.id, label: t.name }))
    : (me.data?.tenants ?? []).map((t) => ({ value: t.tenant, label: t.name ?? t.tenant }));
  if (draft.tenant && !options.some((o) => o.value === draft.tenant))
    options.unshift({ value: draft.tenant, label: draft.tenant });
  return (
    <Select
      label="Tenant"
      description="Permanent. A client acts in its own tenant only; one without a tenant is a client of the platform."
      placeholder={platform ? "None: a client of the platform" : undefined}
      searchable
      clearable={platform}
      clearButtonProps={{ "aria-label": "No tenant" }}
      data={options}
      value={draft.tenant || null}
      onChange={(tenant) => change({ tenant: tenant ?? "", roles: [] })}
      onSearchChange={setTyped}
      filter={platform ? ({ options: all }) => all : undefined}
      error={error}
    />
  );
}

function Authentication({
  draft,
  change,
  at,
  initial,
  creates,
}: Part & { at: FieldErrors; initial: Draft; creates: boolean }) {
  const keys = draft.auth === "private_key_jwt";
  const gains = !creates && hasSecret(draft.auth) && !hasSecret(initial.auth);
  const loses = !creates && !hasSecret(draft.auth) && hasSecret(initial.auth);
  return (
    <>
      <Radio.Group
        label="How it authenticates"
        value={draft.auth}
        onChange={(auth) => change({ auth: auth as AuthMethod })}
        error={at("/token_endpoint_auth_method")}
      >
        <Stack gap="xs" mt="xs">
          {authMethods.map((m) => (
            <Radio key={m.value} value={m.value} label={m.label} description={m.about} />
          ))}
        </Stack>
      </Radio.Group>
      {gains && <Alert color="blue">It has no secret yet: rotate to get one, after you have saved this.</Alert>}
      {loses && <Alert color="yellow">Its secrets are of no use after this.</Alert>}
      {keys && (
        <>
          <TextInput
            label="URL of its public keys (jwks_uri)"
            description="https, of a public host. Or paste the keys below, and not both."
            value={draft.jwks_uri}
            disabled={draft.jwks.trim() !== ""}
            onChange={(e) => change({ jwks_uri: e.currentTarget.value })}
            error={at("/jwks_uri")}
          />
          <JsonInput
            label="Public keys (JWK set)"
            description="RFC 7517. A private key must never leave its owner."
            placeholder='{"keys": [{"kty": "EC", …}]}'
            autosize
            minRows={3}
            maxRows={10}
            value={draft.jwks}
            disabled={draft.jwks_uri.trim() !== ""}
            onChange={(jwks) => change({ jwks })}
            error={
              at("/jwks") ?? (draft.jwks.trim() && parseKeys(draft.jwks) === undefined ? "Must be JSON" : undefined)
            }
          />
        </>
      )}
    </>
  );
}

function Grants({ draft, change, error }: Part & { error: string | undefined }) {
  const code = draft.grants.includes("authorization_code");
  return (
    <Checkbox.Group
      label="What it asks for tokens with"
      value={draft.grants}
      onChange={(grants) => change({ grants: grants as GrantType[] })}
      error={error}
    >
      <Stack gap="xs" mt="xs">
        {grantTypes.map((g) => {
          const fixed = grantFixed(draft, g);
          return (
            <Checkbox
              key={g}
              value={g}
              label={grantLabels[g]}
              disabled={fixed !== undefined}
              description={fixed?.why}
            />
          );
        })}
        <Text size="sm" c="dimmed">
          {code
            ? `Response type: code. Tokens do not travel through the browser (RFC 9700, section 2.1.2), so there is no other. ${
                draft.auth === "none" ? "PKCE is mandatory for a public client." : "Use PKCE as well."
              }`
            : "Without authorization code there is no response type, and no redirect URI."}
        </Text>
      </Stack>
    </Checkbox.Group>
  );
}

function Redirects({ draft, change, at }: Part & { at: FieldErrors }) {
  const isPublic = draft.auth === "none";
  if (!draft.grants.includes("authorization_code")) return null;
  return (
    <>
      <Textarea
        label="Redirect URIs"
        required
        description={
          isPublic
            ? "One a line, exact. https; http on 127.0.0.1 or [::1]; or a scheme of its own, as in com.example.app:/callback."
            : "One a line, exact, https: no wildcard, no fragment."
        }
        placeholder="https://app.example.com/callback"
        autosize
        minRows={2}
        value={draft.redirects}
        onChange={(e) => change({ redirects: e.currentTarget.value })}
        error={at("/redirect_uris") ?? badRedirects(draft.redirects, isPublic)}
      />
      <Textarea
        label="Redirect URIs after sign-out"
        description="One a line. May be empty."
        autosize
        minRows={1}
        value={draft.logouts}
        onChange={(e) => change({ logouts: e.currentTarget.value })}
        error={at("/post_logout_redirect_uris") ?? badRedirects(draft.logouts, isPublic)}
      />
    </>
  );
}

function Reach({ draft, change, at }: Part & { at: FieldErrors }) {
  const own = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/roles",
    { params: { path: { tenant: draft.tenant } } },
    { enabled: draft.tenant !== "" },
  );
  const global = $api.useQuery("get", "/v1/roles", {}, { enabled: draft.tenant === "", retry: false });
  const roles = ((draft.tenant ? own.data?.items : global.data?.items) ?? []).map((r) => r.name);
  return (
    <>
      <MultiSelect
        label="Roles"
        description="Assigned to the client itself, in its tenant. You can grant what you hold, and no more."
        searchable
        clearable
        limit={50}
        clearButtonProps={{ "aria-label": "No roles" }}
        data={[...new Set([...roles, ...draft.roles])]}
        value={draft.roles}
        onChange={(r) => change({ roles: r })}
        nothingFoundMessage="No such role"
        error={at("/roles")}
      />
      <TagsInput
        label="Scopes"
        description="That its tokens may have. Enter adds one. Besides those of OpenID Connect, a scope is the permission of its name."
        clearable
        clearButtonProps={{ "aria-label": "No scopes" }}
        splitChars={[",", " "]}
        data={["openid", "profile", "email", "offline_access"]}
        value={draft.scopes}
        onChange={(scopes) => change({ scopes })}
        error={at("/scopes")}
      />
      <TagsInput
        label="Audiences"
        description="That its tokens may be for. Empty: those of the gateways. Others, only a platform administrator grants."
        clearable
        clearButtonProps={{ "aria-label": "No audiences" }}
        splitChars={[",", " "]}
        value={draft.audience}
        onChange={(audience) => change({ audience })}
        error={at("/audience")}
      />
    </>
  );
}
