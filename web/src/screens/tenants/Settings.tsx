import { Button, Group, Stack, Text, TextInput, Title } from "@mantine/core";
import { useState } from "react";
import { useChanged } from "../../api/changes";
import { $api, api, read, type Schemas, useResource, type Versioned } from "../../api/client";
import { navigate } from "../../app/location";
import { useCan } from "../../app/me";
import { useDialogs } from "../../components/dialogs";
import { AttributesInput, attributesText, done, FormModal, parseAttributes } from "../../components/form";
import { Json } from "../../components/Json";
import { Loaded } from "../../components/states";

type TenantBody = Schemas["TenantBody"];
const statuses = {
  active: { verb: "Activate", text: "Requests to it are authorized again." },
  suspended: {
    verb: "Suspend",
    text: "Requests to it are denied at once, on every replica. Its data stays, and it can be activated again.",
  },
  archived: {
    verb: "Archive",
    text: "Requests to it are denied at once, on every replica. Its data stays, and it can be activated again.",
  },
} as const;

export function Settings({ tenant }: { tenant: string }) {
  const can = useCan(tenant);
  const { confirm } = useDialogs();
  const changed = useChanged();
  const [editing, setEditing] = useState<Versioned<TenantBody>>();
  const path = { tenant };
  const resource = useResource("/v1/tenants/{tenant}", { params: { path } });
  const clients = $api.useQuery(
    "get",
    "/v1/clients",
    { params: { query: { tenant, limit: 1 } } },
    { enabled: can("client:list") && can("tenant:delete") },
  );

  const setStatus = (t: TenantBody, status: keyof typeof statuses) =>
    confirm({
      title: `${statuses[status].verb} ${t.name}`,
      children: statuses[status].text,
      confirm: statuses[status].verb,
      danger: status !== "active",
      type: status === "active" ? undefined : t.id,
      run: async () => {
        await api.PATCH("/v1/tenants/{tenant}", {
          params: { path },
          headers: { "Content-Type": "application/merge-patch+json" },
          body: { status },
        });
        await changed("/v1/tenants", "/v1/me");
        done(`${t.name} is ${status}`);
      },
    });

  const remove = (t: TenantBody) =>
    confirm({
      title: `Delete ${t.name}`,
      children:
        "Its roles, members and mappings are deleted with it. This cannot be undone, and its id is never used again.",
      confirm: "Delete for good",
      danger: true,
      type: t.id,
      run: async () => {
        await api.DELETE("/v1/tenants/{tenant}", { params: { path } });
        navigate("/tenants");
        await changed("/v1/tenants", "/v1/me");
        done(`${t.name} is deleted`);
      },
    });

  return (
    <Loaded query={resource}>
      {(r) => {
        const t = r.value;
        const hasClients = (clients.data?.items ?? []).length > 0;
        return (
          <Stack maw={720}>
            <Group justify="space-between">
              <Title order={2}>Settings</Title>
              {can("tenant:update") && (
                <Button variant="default" onClick={() => setEditing(r)}>
                  Edit
                </Button>
              )}
            </Group>
            <dl className="facts">
              <dt>Name</dt>
              <dd>{t.name}</dd>
              <dt>Slug</dt>
              <dd>{t.slug}</dd>
              <dt>Id</dt>
              <dd>
                <code>{t.id}</code>
              </dd>
              <dt>Version</dt>
              <dd>{t.version}</dd>
              <dt>Attributes</dt>
              <dd>{Object.keys(t.attributes ?? {}).length > 0 ? <Json value={t.attributes} /> : "none"}</dd>
            </dl>
            {can("tenant:set-status") && (
              <>
                <Title order={2}>Status</Title>
                <Text size="sm">
                  It is {t.status}. {t.status === "active" ? "" : "Requests to it are denied."}
                </Text>
                <Group>
                  {(["active", "suspended", "archived"] as const)
                    .filter((s) => s !== t.status)
                    .map((s) => (
                      <Button
                        key={s}
                        variant={s === "active" ? "filled" : "outline"}
                        color={s === "active" ? undefined : "red"}
                        onClick={() => void setStatus(t, s)}
                      >
                        {statuses[s].verb}
                      </Button>
                    ))}
                </Group>
              </>
            )}
            {can("tenant:delete") && t.status !== "active" && (
              <>
                <Title order={2}>Deletion</Title>
                {hasClients && <Text size="sm">Delete its clients first.</Text>}
                <Group>
                  <Button variant="outline" color="red" disabled={hasClients} onClick={() => void remove(t)}>
                    Delete this tenant
                  </Button>
                </Group>
              </>
            )}
            {editing && <EditTenant base={editing} onClose={() => setEditing(undefined)} />}
          </Stack>
        );
      }}
    </Loaded>
  );
}

type Editable = Schemas["TenantPut"];
const editable = (v: Versioned<TenantBody>): Versioned<Required<Editable>> => ({
  etag: v.etag,
  value: { name: v.value.name, slug: v.value.slug, attributes: v.value.attributes ?? {} },
});

function EditTenant({ base, onClose }: { base: Versioned<TenantBody>; onClose: () => void }) {
  const { saveEdit } = useDialogs();
  const changed = useChanged();
  const [name, setName] = useState(base.value.name);
  const [slug, setSlug] = useState(base.value.slug);
  const [attributes, setAttributes] = useState(attributesText(base.value.attributes));
  const path = { tenant: base.value.id };
  return (
    <FormModal
      title={`Edit ${base.value.name}`}
      submitLabel="Save"
      onClose={onClose}
      disabled={!name.trim() || !slug || !parseAttributes(attributes)}
      submit={async () => {
        const saved = await saveEdit({
          title: `${base.value.name} changed`,
          base: editable(base),
          mine: { name: name.trim(), slug, attributes: parseAttributes(attributes)! },
          save: (body, etag) =>
            api.PUT("/v1/tenants/{tenant}", { params: { path, header: { "If-Match": etag } }, body }),
          reload: async () => editable(await read("/v1/tenants/{tenant}", { params: { path } })),
        });
        if (saved) {
          await changed("/v1/tenants", "/v1/me");
          done("Saved");
        }
        return saved;
      }}
    >
      {(at) => (
        <>
          <TextInput
            label="Name"
            required
            data-autofocus
            value={name}
            onChange={(e) => setName(e.currentTarget.value)}
            error={at("/name")}
            maxLength={200}
          />
          <TextInput
            label="Slug"
            required
            description="Of a-z 0-9 . _ -. It is unique."
            value={slug}
            onChange={(e) => setSlug(e.currentTarget.value)}
            error={at("/slug")}
            maxLength={64}
          />
          <AttributesInput text={attributes} onChange={setAttributes} error={at("/attributes")} />
        </>
      )}
    </FormModal>
  );
}
