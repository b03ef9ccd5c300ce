import { Button, Drawer, Group, Stack, Table, Text, Title } from "@mantine/core";
import { useState } from "react";
import { useChanged, usePagesCache } from "../../../api/changes";
import { api, useResource, type Versioned } from "../../../api/client";
import { useCan } from "../../../app/me";
import { Copy } from "../../../components/Copy";
import { done } from "../../../components/form";
import { Json } from "../../../components/Json";
import { Status } from "../../../components/Status";
import { Failure, Loaded } from "../../../components/states";
import { Time } from "../../../components/Time";
import { useLeaving } from "../leaving";
import { UserLink } from "../UserLink";
import { Effective } from "./Effective";
import { EditMember, type MemberBody } from "./MemberForm";

const memberPath = "/v1/tenants/{tenant}/members/{user}";

/** A member of a tenant beside the list. */
export function MemberDetail({ tenant, user, onClose }: { tenant: string; user: string; onClose: () => void }) {
  const resource = useResource(memberPath, { params: { path: { tenant, user } } });
  const [editing, setEditing] = useState<Versioned<MemberBody>>();
  return (
    <>
      <Drawer
        opened
        onClose={onClose}
        position="right"
        size="xl"
        title={resource.data?.value.subject ?? "Member"}
        closeButtonProps={{ "aria-label": "Close" }}
        closeOnEscape={!editing}
      >
        <Loaded query={resource}>{(r) => <Detail r={r} onEdit={() => setEditing(r)} onClose={onClose} />}</Loaded>
      </Drawer>
      {editing && <EditMember base={editing} onClose={() => setEditing(undefined)} />}
    </>
  );
}

function Detail({ r, onEdit, onClose }: { r: Versioned<MemberBody>; onEdit: () => void; onClose: () => void }) {
  const m = r.value;
  const can = useCan(m.tenant);
  const leaving = useLeaving(m.tenant);
  const pages = usePagesCache<MemberBody>("/v1/tenants/{tenant}/members");
  const changed = useChanged();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const path = { tenant: m.tenant, user: m.user };
  const suspended = m.status === "suspended";

  const setStatus = async (status: "active" | "suspended") => {
    setError(undefined);
    setBusy(true);
    const run = async (query: object) => {
      const { data } = await api.PATCH(memberPath, {
        params: { path, query, header: { "If-Match": r.etag } },
        headers: { "Content-Type": "application/merge-patch+json" },
        body: { status },
      });
      pages.replace((row) => row.user === m.user, data);
      await changed(memberPath, "/v1/users/{user}", "/v1/me");
      done(status === "active" ? `${m.subject} is active again` : `${m.subject} is suspended`);
    };
    try {
      await leaving(
        run,
        status === "active"
          ? undefined
          : {
              title: `Suspend ${m.subject}`,
              children:
                "Requests of the member to this tenant are denied at once. The membership stays, and can be resumed.",
              confirm: "Suspend",
              danger: true,
            },
      );
    } catch (failed) {
      setError(failed);
    } finally {
      setBusy(false);
    }
  };

  const remove = () =>
    leaving(
      async (query) => {
        await api.DELETE(memberPath, { params: { path, query, header: { "If-Match": r.etag } } });
        pages.replace((row) => row.user === m.user, undefined);
        onClose();
        await changed("/v1/users", "/v1/me");
        done(`${m.subject} is no member any more`);
      },
      {
        title: `Remove ${m.subject}`,
        children: "The membership ends at once, with its roles and attributes. The user stays, in other tenants too.",
        confirm: "Remove",
        danger: true,
      },
    );

  return (
    <Stack>
      <Group gap="xs">
        {can("member:update") && (
          <Button onClick={onEdit} data-autofocus>
            Edit
          </Button>
        )}
        {can("member:set-status") && (
          <Button variant="default" loading={busy} onClick={() => void setStatus(suspended ? "active" : "suspended")}>
            {suspended ? "Resume" : "Suspend"}
          </Button>
        )}
        {can("member:delete") && (
          <Button variant="outline" color="red" onClick={() => void remove()}>
            Remove
          </Button>
        )}
      </Group>
      {error !== undefined && <Failure error={error} />}
      <dl className="facts">
        <dt>Subject</dt>
        <dd>
          <Copy value={m.subject} label="Copy the subject">
            <UserLink user={m.user}>{m.subject}</UserLink>
          </Copy>
        </dd>
        <dt>Issuer</dt>
        <dd>{m.issuer}</dd>
        <dt>User</dt>
        <dd>
          <Copy value={m.user} label="Copy the id" />
        </dd>
        <dt>Status</dt>
        <dd>
          <Status value={m.status} />
        </dd>
        <dt>Ends</dt>
        <dd>{m.expires_at ? <Time at={m.expires_at} /> : "no end"}</dd>
        <dt>Attributes</dt>
        <dd>{Object.keys(m.attributes ?? {}).length > 0 ? <Json value={m.attributes} /> : "none"}</dd>
      </dl>
      <Title order={3}>Assigned roles</Title>
      {(m.roles ?? []).length === 0 ? (
        <Text size="sm" c="dimmed">
          None.
        </Text>
      ) : (
        <Table aria-label="Assigned roles">
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Role</Table.Th>
              <Table.Th>Not before</Table.Th>
              <Table.Th>Until</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {(m.roles ?? []).map((role) => {
              const term = m.role_terms?.[role];
              return (
                <Table.Tr key={role}>
                  <Table.Td>
                    <code>{role}</code>
                    {term?.reason && (
                      <Text size="xs" c="dimmed">
                        {term.reason}
                      </Text>
                    )}
                  </Table.Td>
                  <Table.Td>{term?.starts_at ? <Time at={term.starts_at} /> : "–"}</Table.Td>
                  <Table.Td>{term?.expires_at ? <Time at={term.expires_at} /> : "no end"}</Table.Td>
                </Table.Tr>
              );
            })}
          </Table.Tbody>
        </Table>
      )}
      <Effective tenant={m.tenant} user={m.user} />
    </Stack>
  );
}
