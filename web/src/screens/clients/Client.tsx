import { Alert, Anchor, Button, Code, Group, Menu, Paper, SimpleGrid, Stack, Table, Text, Title } from "@mantine/core";
import { IconBan, IconDots, IconKeyOff, IconPencil, IconRefresh, IconTrash } from "@tabler/icons-react";
import { type ReactNode, useEffect, useState } from "react";
import { Link, useParams } from "wouter";
import { useChanged } from "../../api/changes";
import { api, read, useResource, type Versioned } from "../../api/client";
import { isProblem } from "../../api/problem";
import { navigate } from "../../app/location";
import { useCan } from "../../app/me";
import { Copy } from "../../components/Copy";
import { useDialogs } from "../../components/dialogs";
import { done, newKey } from "../../components/form";
import { Json } from "../../components/Json";
import { Page } from "../../components/Page";
import { Status } from "../../components/Status";
import { Empty, Loaded } from "../../components/states";
import { Time } from "../../components/Time";
import { ClientForm } from "./ClientForm";
import { Operations } from "./Operations";
import { RotateForm } from "./RotateForm";
import { type Client as ClientBody, type ClientPut, draftOf, hasSecret, putOf } from "./rules";
import { SecretDialog } from "./SecretDialog";

const path = [{ label: "Clients", to: "/clients" }];

export default function Client() {
  const id = decodeURIComponent(useParams().client ?? "");
  const init = { params: { path: { id } } };
  const query = useResource("/v1/clients/{id}", init, {
    refetchInterval: (q) => (q.state.data?.value.operation ? 1500 : false),
    retry: (n, error) => !isProblem(error) && n < 2,
  });
  if (isProblem(query.error, 404))
    return (
      <Page title="Client" path={path}>
        <Empty title={query.data ? "The client is deleted" : "There is no such client"}>
          {query.data
            ? "Here, and in the identity provider. Its id is never used again."
            : "It does not exist, or it is of a tenant whose clients you cannot see."}
          <Group justify="center" mt="sm">
            <Button
              variant="default"
              component={Link}
              href={`/audit?${new URLSearchParams({ kind: "client", object: id })}`}
            >
              Its audit trail
            </Button>
          </Group>
        </Empty>
      </Page>
    );
  const client = query.data?.value;
  return (
    <Page
      title={client?.client_name || "Client"}
      path={path}
      description={
        client && (
          <Group gap="xs">
            <Status value={client.status} />
            {client.sync && <Status value={client.sync} />}
            <Copy value={client.client_id} label="Copy the client_id" />
          </Group>
        )
      }
      actions={query.data && <Actions of={query.data} />}
    >
      <Loaded query={query}>{({ value }) => <Shown client={value} />}</Loaded>
    </Page>
  );
}

function Actions({ of: resource }: { of: Versioned<ClientBody> }) {
  const c = resource.value;
  const id = c.client_id;
  const can = useCan(c.tenant);
  const { confirm, saveEdit } = useDialogs();
  const changed = useChanged();
  const [dialog, setDialog] = useState<"edit" | "rotate" | undefined>();
  const [rotated, setRotated] = useState<ClientBody | undefined>();
  // What is edited is what was read when the form was opened: a refresh meanwhile must not hide a conflict.
  const [base, setBase] = useState(resource);
  if (c.status === "deleted") return null;
  const params = { path: { id } };
  const name = c.client_name || id;
  const after = (message: string) => {
    done(message);
    void changed("/v1/clients");
  };
  const block = () =>
    void confirm({
      title: c.status === "active" ? `Block ${name}?` : `Unblock ${name}?`,
      children:
        c.status === "active"
          ? "Its tokens are rejected here at once. The identity provider is not notified, and continues to issue them."
          : "Its tokens are accepted here again, those that it has included.",
      confirm: c.status === "active" ? "Block" : "Unblock",
      danger: c.status === "active",
      run: () =>
        api.PATCH("/v1/clients/{id}", {
          params,
          headers: { "Content-Type": "application/merge-patch+json" },
          body: { status: c.status === "active" ? "blocked" : "active" },
        }),
    }).then((ok) => ok && after(c.status === "active" ? "Blocked" : "Unblocked"));
  const key = newKey();
  const revoke = () =>
    void confirm({
      title: `Revoke the tokens of ${name}?`,
      children:
        "All tokens that were issued before now are rejected here. It can get new ones at once: block it to stop that.",
      confirm: "Revoke",
      danger: true,
      run: () =>
        api.POST("/v1/clients/{id}:revoke", { params: { path: { id }, header: { "Idempotency-Key": key } }, body: {} }),
    }).then((ok) => ok && after("Its tokens are revoked"));
  const remove = () =>
    void confirm({
      title: `Delete ${name}?`,
      children:
        "Its tokens are rejected here at once, and the identity provider deletes it. This cannot be undone: its id is never used again.",
      confirm: "Delete",
      danger: true,
      type: name,
      run: () => api.DELETE("/v1/clients/{id}", { params: { path: { id }, header: { "If-Match": resource.etag } } }),
    }).then((ok) => {
      if (!ok) return;
      after("Deleted");
      navigate("/clients");
    });
  const edit = (value: ClientPut) =>
    saveEdit<ClientPut>({
      title: `Save ${name}`,
      base: { value: putOf(draftOf(base.value)), etag: base.etag },
      mine: value,
      save: (body, etag) =>
        api.PUT("/v1/clients/{id}", { params: { path: { id }, header: { "If-Match": etag } }, body }),
      reload: async () => {
        const now = await read("/v1/clients/{id}", { params });
        return { value: putOf(draftOf(now.value)), etag: now.etag };
      },
    });
  return (
    <>
      {c.managed && can("client:update") && (
        <Button
          variant="default"
          leftSection={<IconPencil size={16} />}
          onClick={() => {
            setBase(resource);
            setDialog("edit");
          }}
        >
          Edit
        </Button>
      )}
      {c.managed && hasSecret(c.token_endpoint_auth_method) && can("client:rotate") && (
        <Button variant="default" leftSection={<IconRefresh size={16} />} onClick={() => setDialog("rotate")}>
          Rotate secret
        </Button>
      )}
      {(can("client:set-status") || can("client:revoke") || can("client:delete")) && (
        <Menu position="bottom-end">
          <Menu.Target>
            <Button variant="default" leftSection={<IconDots size={16} />}>
              More
            </Button>
          </Menu.Target>
          <Menu.Dropdown>
            {can("client:set-status") && (
              <Menu.Item leftSection={<IconBan size={16} />} onClick={block}>
                {c.status === "active" ? "Block" : "Unblock"}
              </Menu.Item>
            )}
            {can("client:revoke") && (
              <Menu.Item leftSection={<IconKeyOff size={16} />} onClick={revoke}>
                Revoke tokens
              </Menu.Item>
            )}
            {can("client:delete") && (
              <Menu.Item leftSection={<IconTrash size={16} />} onClick={remove}>
                Delete
              </Menu.Item>
            )}
          </Menu.Dropdown>
        </Menu>
      )}
      {dialog === "edit" && (
        <ClientForm
          title={`Edit ${name}`}
          submitLabel="Save"
          initial={draftOf(base.value)}
          submit={async (draft) => {
            if (!(await edit(putOf(draft)))) return false;
            after("Saved");
            return true;
          }}
          onClose={() => setDialog(undefined)}
        />
      )}
      {dialog === "rotate" && (
        <RotateForm
          client={c}
          onRotated={(client) => {
            setRotated(client);
            void changed("/v1/clients");
          }}
          onClose={() => setDialog(undefined)}
        />
      )}
      {rotated && <SecretDialog client={rotated} pending={false} onClose={() => setRotated(undefined)} />}
    </>
  );
}

function Row({ name, children }: { name: string; children: ReactNode }) {
  return (
    <Table.Tr>
      <Table.Th scope="row" fw={500} w="38%" style={{ verticalAlign: "top" }}>
        {name}
      </Table.Th>
      <Table.Td style={{ overflowWrap: "anywhere" }}>{children}</Table.Td>
    </Table.Tr>
  );
}

function Words({ of, none = "none" }: { of: string[] | null | undefined; none?: string }) {
  if (!of || of.length === 0)
    return (
      <Text size="sm" c="dimmed" span>
        {none}
      </Text>
    );
  return of.map((w) => (
    <Code key={w} mr={4} style={{ whiteSpace: "normal" }}>
      {w}
    </Code>
  ));
}

function Shown({ client: c }: { client: ClientBody }) {
  const can = useCan(c.tenant);
  const search = (params: Record<string, string>) => new URLSearchParams(params).toString();
  return (
    <Stack>
      {!c.managed && (
        <Alert color="gray" title="It was not created here">
          Only its status, roles and scopes are known. Change its metadata in the identity provider.
        </Alert>
      )}
      {c.status === "deleted" && (
        <Alert color="yellow" title="It is being deleted">
          Its tokens are rejected here. The identity provider has not confirmed the deletion yet.
        </Alert>
      )}
      {c.sync === "failed" && (
        <Alert color="red" title="The identity provider has rejected the last change">
          It was reverted here. The steps below say why.
        </Alert>
      )}
      <SimpleGrid cols={{ base: 1, md: 2 }} spacing="md">
        <Paper withBorder p="sm">
          <Table aria-label="Client" layout="fixed" verticalSpacing={4}>
            <Table.Tbody>
              <Row name="Tenant">{c.tenant || "a client of the platform"}</Row>
              {c.managed && (
                <>
                  <Row name="Type">{c.type}</Row>
                  <Row name="Authentication">
                    <Code>{c.token_endpoint_auth_method}</Code>
                  </Row>
                  <Row name="Grant types">
                    <Words of={c.grant_types} />
                  </Row>
                  <Row name="Redirect URIs">
                    <Words of={c.redirect_uris} />
                  </Row>
                  <Row name="After sign-out">
                    <Words of={c.post_logout_redirect_uris} />
                  </Row>
                  {c.jwks_uri && <Row name="Keys">{c.jwks_uri}</Row>}
                  <Row name="Audiences">
                    <Words of={c.audience} />
                  </Row>
                </>
              )}
              <Row name="Roles">
                <Words of={c.roles} />
              </Row>
              <Row name="Scopes">
                <Words of={c.scopes} />
              </Row>
            </Table.Tbody>
          </Table>
          {c.jwks ? <Json value={c.jwks} maxHeight={160} /> : null}
        </Paper>
        <Stack gap="md">
          {c.managed && hasSecret(c.token_endpoint_auth_method) && <Secret client={c} />}
          <Paper withBorder p="sm">
            <Table aria-label="History" layout="fixed" verticalSpacing={4}>
              <Table.Tbody>
                <Row name="Created">
                  <Time at={c.created_at} />
                </Row>
                <Row name="Changed">
                  <Time at={c.updated_at} />
                </Row>
                {c.tokens_not_before && (
                  <Row name="Tokens revoked">
                    those issued before <Time at={c.tokens_not_before} />
                  </Row>
                )}
                <Row name="More">
                  <Group gap="sm">
                    {can("audit:read") && (
                      <Anchor
                        component={Link}
                        size="sm"
                        href={`/audit?${search({ kind: "client", object: c.client_id })}`}
                      >
                        Audit trail
                      </Anchor>
                    )}
                    {can("decision:list") && (
                      <Anchor component={Link} size="sm" href={`/decisions?${search({ client_id: c.client_id })}`}>
                        Decisions
                      </Anchor>
                    )}
                  </Group>
                </Row>
              </Table.Tbody>
            </Table>
          </Paper>
        </Stack>
      </SimpleGrid>
      {c.managed && <Operations id={c.client_id} />}
    </Stack>
  );
}

const secretWords: Record<string, string> = {
  not_issued: "No caller has received it. Rotate to get one.",
  issued: "Issued: it was shown once.",
  unknown: "The last rotation has an unknown outcome. Rotate again.",
  none: "None.",
};

function Secret({ client: c }: { client: ClientBody }) {
  return (
    <Paper withBorder p="sm" component="section" aria-label="Secret">
      <Title order={2} fz="md">
        Secret
      </Title>
      <Text size="sm">{secretWords[c.secret_state ?? "none"]}</Text>
      {c.old_secret_until && (
        <Alert color="blue" mt="xs" title="Two secrets work now">
          The previous one works until <Time at={c.old_secret_until} />, in <Countdown to={c.old_secret_until} />. Give
          the new one to the client before that. A rotation that retires the old secret ends the overlap now.
        </Alert>
      )}
    </Paper>
  );
}

/** The time that is left, by the second in the last hour. */
function Countdown({ to }: { to: string }) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  const left = Math.max(0, Math.round((new Date(to).getTime() - now) / 1000));
  const two = (n: number) => String(n).padStart(2, "0");
  const [d, h, m, s] = [Math.floor(left / 86_400), Math.floor(left / 3600) % 24, Math.floor(left / 60) % 60, left % 60];
  return (
    <b role="timer">
      {d > 0 ? `${d} d ` : ""}
      {d > 0 || h > 0 ? `${h} h ` : ""}
      {left < 3600 ? `${two(m)}:${two(s)}` : `${m} min`}
    </b>
  );
}
