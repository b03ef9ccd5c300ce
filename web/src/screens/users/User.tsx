import { Alert, Anchor, Button, Group, Select, Stack, Text, TextInput, Title } from "@mantine/core";
import { useState } from "react";
import { Link, useParams } from "wouter";
import { useChanged } from "../../api/changes";
import { $api, api, read, useResource, type Versioned } from "../../api/client";
import { navigate } from "../../app/location";
import { useCan, useMe } from "../../app/me";
import { Copy } from "../../components/Copy";
import { DataTable } from "../../components/DataTable";
import { useDialogs } from "../../components/dialogs";
import { AttributesInput, attributesText, done, FormModal, parseAttributes } from "../../components/form";
import { Json } from "../../components/Json";
import { Page } from "../../components/Page";
import { Status } from "../../components/Status";
import { Failure, Loaded, Loading } from "../../components/states";
import { Time } from "../../components/Time";
import { Effective } from "../tenants/members/Effective";
import { useParam } from "../tenants/params";
import { type PlatformRole, PlatformRoles, type UserBody } from "./Users";

const onePath = "/v1/users/{user}";

export default function User() {
  const params = useParams<{ user: string }>();
  const user = decodeURIComponent(params.user);
  const resource = useResource(onePath, { params: { path: { user } } });
  const path = [{ label: "Users", to: "/users" }];
  if (!resource.data) {
    return (
      <Page title="User" path={path}>
        {resource.isError ? <Failure error={resource.error} retry={() => void resource.refetch()} /> : <Loading />}
      </Page>
    );
  }
  return <Known r={resource.data} path={path} />;
}

function Known({ r, path }: { r: Versioned<UserBody>; path: { label: string; to: string }[] }) {
  const u = r.value;
  const can = useCan();
  const me = useMe();
  const { confirm } = useDialogs();
  const changed = useChanged();
  const [editing, setEditing] = useState<Versioned<UserBody>>();
  const refresh = () => changed("/v1/users", "/v1/tenants/{tenant}", "/v1/me");
  const blocked = u.status === "blocked";
  const self = me.data?.user === u.id;
  const at = { path: { user: u.id } };

  const setStatus = (status: UserBody["status"]) =>
    confirm({
      title: `${status === "blocked" ? "Block" : "Unblock"} ${u.subject}`,
      children:
        status === "blocked"
          ? "Requests of a blocked user are denied at once, in every tenant. Memberships and roles stay."
          : "Requests are authorized again by the memberships that the user has.",
      confirm: status === "blocked" ? "Block" : "Unblock",
      danger: status === "blocked",
      run: async () => {
        await api.PATCH(onePath, {
          params: at,
          headers: { "Content-Type": "application/merge-patch+json" },
          body: { status },
        });
        await refresh();
        done(`${u.subject} is ${status}`);
      },
    });
  const revoke = () =>
    confirm({
      title: `Revoke the tokens of ${u.subject}`,
      children: "Every token that was issued until now is rejected, in every tenant. The user can sign in again.",
      confirm: "Revoke",
      danger: true,
      run: async () => {
        await api.POST("/v1/users/{user}:revoke", { params: at, body: {} });
        await refresh();
        done("Tokens that were issued until now are rejected");
      },
    });
  const erase = () =>
    confirm({
      title: `Erase ${u.subject}`,
      children:
        "Issuer, subject, attributes and memberships are deleted. The id stays in the audit log and identifies no person any more. This cannot be undone.",
      confirm: "Erase for good",
      danger: true,
      type: u.subject,
      run: async () => {
        await api.DELETE(onePath, { params: at });
        navigate("/users");
        await refresh();
        done("The user is erased");
      },
    });

  return (
    <Page
      title={u.subject}
      path={path}
      description={
        <Group gap="xs">
          <Status value={u.status} />
          <span style={{ overflowWrap: "anywhere" }}>{u.issuer}</span>
        </Group>
      }
      actions={
        <>
          {can("user:update") && (
            <Button variant="default" onClick={() => setEditing(r)}>
              Edit
            </Button>
          )}
          {can("user:revoke") && (
            <Button variant="default" onClick={() => void revoke()}>
              Revoke tokens
            </Button>
          )}
          {can("user:set-status") && (
            <Button
              variant={blocked ? "filled" : "outline"}
              color={blocked ? undefined : "red"}
              onClick={() => void setStatus(blocked ? "active" : "blocked")}
            >
              {blocked ? "Unblock" : "Block"}
            </Button>
          )}
        </>
      }
    >
      {self && (
        <Alert color="yellow" variant="light" title="This is you">
          What you change here counts for you at once.
        </Alert>
      )}
      <dl className="facts">
        <dt>Id</dt>
        <dd>
          <Copy value={u.id} label="Copy the id" />
        </dd>
        <dt>Subject</dt>
        <dd>
          <Copy value={u.subject} label="Copy the subject" />
        </dd>
        <dt>Platform roles</dt>
        <dd>{(u.platform_roles ?? []).join(", ") || "none"}</dd>
        <dt>Default tenant</dt>
        <dd>{u.default_tenant ?? "none"}</dd>
        <dt>Tokens</dt>
        <dd>
          {u.tokens_not_before ? (
            <>
              issued before <Time at={u.tokens_not_before} /> are rejected
            </>
          ) : (
            "none revoked"
          )}
        </dd>
        <dt>Attributes</dt>
        <dd>{Object.keys(u.attributes ?? {}).length > 0 ? <Json value={u.attributes} /> : "none"}</dd>
        <dt>Version</dt>
        <dd>{u.version}</dd>
      </dl>
      <Memberships user={u.id} />
      {can("user:erase") && (
        <Stack gap="xs">
          <Title order={2}>Erasure</Title>
          <Text size="sm">For a person who has the right to be forgotten. Blocking is enough for all else.</Text>
          <Group>
            <Button variant="outline" color="red" onClick={() => void erase()}>
              Erase this user
            </Button>
          </Group>
        </Stack>
      )}
      {editing && <EditUser base={editing} onClose={() => setEditing(undefined)} />}
    </Page>
  );
}

function Memberships({ user }: { user: string }) {
  const query = $api.useQuery("get", "/v1/users/{user}/memberships", { params: { path: { user } } });
  const [chosen, setTenant] = useParam("tenant");
  return (
    <Loaded query={query}>
      {(data) => {
        const all = data.items ?? [];
        const tenant = chosen || (all.length === 1 ? all[0]!.tenant : "");
        return (
          <Stack>
            <Title order={2}>Memberships</Title>
            {all.length === 0 ? (
              <Text size="sm" c="dimmed">
                A member of no tenant.
              </Text>
            ) : (
              <DataTable
                label="Memberships"
                rows={all}
                rowKey={(m) => m.tenant}
                maxHeight={320}
                columns={[
                  {
                    key: "tenant",
                    header: "Tenant",
                    cell: (m) => (
                      <Anchor component={Link} href={`/tenants/${m.tenant}/members?member=${user}`} size="sm">
                        {m.tenant}
                      </Anchor>
                    ),
                  },
                  { key: "status", header: "Status", cell: (m) => <Status value={m.status} /> },
                  {
                    key: "roles",
                    header: "Roles",
                    cell: (m) => <span style={{ whiteSpace: "nowrap" }}>{(m.roles ?? []).join(", ") || "none"}</span>,
                  },
                  { key: "ends", header: "Ends", cell: (m) => (m.expires_at ? <Time at={m.expires_at} /> : "no end") },
                ]}
              />
            )}
            {all.length > 0 && (
              <>
                <Title order={2}>Effective access</Title>
                <Select
                  label="In the tenant"
                  placeholder="Choose a tenant"
                  data={all.map((m) => m.tenant)}
                  value={tenant || null}
                  onChange={(t) => setTenant(t ?? "")}
                  searchable
                  maw={320}
                />
                {tenant && <Effective key={tenant} tenant={tenant} user={user} />}
              </>
            )}
          </Stack>
        );
      }}
    </Loaded>
  );
}

interface Editable {
  platform_roles: PlatformRole[];
  default_tenant: string | undefined;
  attributes: Record<string, unknown>;
}

const editable = (v: Versioned<UserBody>): Versioned<Editable> => ({
  etag: v.etag,
  value: {
    platform_roles: (v.value.platform_roles ?? []) as PlatformRole[],
    default_tenant: v.value.default_tenant,
    attributes: v.value.attributes ?? {},
  },
});

function EditUser({ base, onClose }: { base: Versioned<UserBody>; onClose: () => void }) {
  const { saveEdit } = useDialogs();
  const changed = useChanged();
  const before = editable(base);
  const [roles, setRoles] = useState<string[]>(before.value.platform_roles);
  const [tenant, setTenant] = useState(before.value.default_tenant ?? "");
  const [attributes, setAttributes] = useState(attributesText(before.value.attributes));
  const path = { user: base.value.id };
  return (
    <FormModal
      title={`Edit ${base.value.subject}`}
      submitLabel="Save"
      onClose={onClose}
      disabled={!parseAttributes(attributes)}
      submit={async () => {
        const saved = await saveEdit<Editable>({
          title: `${base.value.subject} changed`,
          base: before,
          mine: {
            platform_roles: roles as PlatformRole[],
            default_tenant: tenant.trim() || undefined,
            attributes: parseAttributes(attributes)!,
          },
          save: (body, etag) => api.PUT(onePath, { params: { path, header: { "If-Match": etag } }, body }),
          reload: async () => editable(await read(onePath, { params: { path } })),
        });
        if (saved) {
          await changed("/v1/users", "/v1/tenants/{tenant}", "/v1/me");
          done("Saved");
        }
        return saved;
      }}
    >
      {(at) => (
        <>
          <PlatformRoles value={roles} onChange={setRoles} error={at("/platform_roles")} />
          <TextInput
            label="Default tenant"
            description="Its id: active where a request names none. Empty: none."
            value={tenant}
            onChange={(e) => setTenant(e.currentTarget.value)}
            error={at("/default_tenant")}
            maxLength={64}
          />
          <AttributesInput text={attributes} onChange={setAttributes} error={at("/attributes")} />
        </>
      )}
    </FormModal>
  );
}
