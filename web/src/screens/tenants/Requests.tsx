import { Alert, Button, Group, SegmentedControl, Select, Stack, Text, Textarea, Title } from "@mantine/core";
import { IconAlertTriangle } from "@tabler/icons-react";
import { useState } from "react";
import { useChanged } from "../../api/changes";
import { $api, api, type Schemas } from "../../api/client";
import { usePages } from "../../api/pages";
import { useCan, useMe } from "../../app/me";
import { type Column, PagedTable } from "../../components/DataTable";
import { useDialogs } from "../../components/dialogs";
import { DurationInput, done, duration, FormModal } from "../../components/form";
import { Status } from "../../components/Status";
import { Empty } from "../../components/states";
import { Time } from "../../components/Time";
import { useParam } from "./params";
import { BreakGlass } from "./roles/RoleList";
import { MemberName } from "./UserLink";

type RequestBody = Schemas["RoleRequestBody"];
type State = RequestBody["status"];
const states = ["pending", "approved", "rejected", "cancelled", "expired"] as const;
const path = "/v1/tenants/{tenant}/requests/{request}" as const;
const oneLine = { whiteSpace: "nowrap", overflow: "hidden", textOverflow: "ellipsis", display: "block" } as const;

export function Requests({ tenant }: { tenant: string }) {
  const can = useCan(tenant);
  const me = useMe();
  const { confirm } = useDialogs();
  const changed = useChanged();
  const [given, setState] = useParam("state");
  const state = given || "pending";
  const [asking, setAsking] = useState(false);
  const query = usePages("/v1/tenants/{tenant}/requests", {
    params: { path: { tenant }, query: state === "all" ? {} : { status: state as State } },
  });
  const requestable = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/requestable-roles",
    { params: { path: { tenant } } },
    { enabled: can("request:create"), retry: false },
  );
  const refresh = () => changed("/v1/tenants/{tenant}", "/v1/users/{user}", "/v1/me");
  const at = (r: RequestBody) => ({ params: { path: { tenant, request: r.id } } });

  const approve = (r: RequestBody) =>
    confirm({
      title: `Approve ${r.role}`,
      children: `The role begins at once and ends after ${duration(r.seconds)}. It is granted by your authority. They asked for it because: ${r.reason}`,
      confirm: "Approve",
      reason: "optional",
      run: async (reason) => {
        await api.POST(`${path}:approve`, { ...at(r), body: reason ? { reason } : {} });
        await refresh();
        done(`${r.role} is granted`);
      },
    });
  const reject = (r: RequestBody) =>
    confirm({
      title: `Reject ${r.role}`,
      children: `They asked for it because: ${r.reason}. Who asked sees your reason.`,
      confirm: "Reject",
      danger: true,
      reason: "required",
      run: async (reason) => {
        await api.POST(`${path}:reject`, { ...at(r), body: { reason } });
        await refresh();
        done("The request is rejected");
      },
    });
  const cancel = (r: RequestBody) =>
    confirm({
      title: "Cancel your request",
      children: `For ${r.role}, for ${duration(r.seconds)}.`,
      confirm: "Cancel the request",
      run: async () => {
        await api.POST(`${path}:cancel`, at(r));
        await refresh();
        done("The request is cancelled");
      },
    });

  const columns: Column<RequestBody>[] = [
    {
      key: "role",
      header: "Role",
      cell: (r) => (
        <Group gap={6} wrap="nowrap">
          <code>{r.role}</code>
          {r.approval === "break_glass" && <BreakGlass />}
        </Group>
      ),
    },
    { key: "user", header: "Asked by", cell: (r) => <MemberName tenant={tenant} user={r.user} /> },
    { key: "seconds", header: "For", cell: (r) => <span style={oneLine}>{duration(r.seconds)}</span> },
    {
      key: "reason",
      header: "Reason",
      cell: (r) => (
        <span style={{ ...oneLine, maxWidth: 260 }} title={r.reason}>
          {r.reason}
        </span>
      ),
    },
    { key: "status", header: "State", cell: (r) => <Status value={r.status} /> },
    { key: "created", header: "Asked", cell: (r) => <Time at={r.created_at} ago /> },
    {
      key: "decision",
      header: state === "pending" ? "Decide" : "Decision",
      cell: (r) =>
        r.status !== "pending" ? (
          <span style={{ ...oneLine, maxWidth: 220 }} title={r.decision}>
            {r.expires_at ? (
              <>
                until <Time at={r.expires_at} />
              </>
            ) : (
              r.decision || "–"
            )}
          </span>
        ) : r.user === me.data?.user ? (
          can("request:cancel") && (
            <Button size="compact-sm" variant="default" onClick={() => void cancel(r)}>
              Cancel
            </Button>
          )
        ) : (
          <Group gap={6} wrap="nowrap">
            {can("request:approve") && (
              <Button size="compact-sm" onClick={() => void approve(r)}>
                Approve
              </Button>
            )}
            {can("request:reject") && (
              <Button size="compact-sm" variant="outline" color="red" onClick={() => void reject(r)}>
                Reject
              </Button>
            )}
          </Group>
        ),
    },
  ];

  const roles = requestable.data?.items ?? [];
  return (
    <Stack>
      <Group justify="space-between" align="flex-start">
        <div>
          <Title order={2}>Requests for roles</Title>
          <Text size="sm" c="dimmed">
            Members ask for a role for a time. Nobody decides about their own request.
          </Text>
        </div>
        {roles.length > 0 && <Button onClick={() => setAsking(true)}>Ask for a role</Button>}
      </Group>
      <div style={{ overflowX: "auto" }}>
        <SegmentedControl
          aria-label="State"
          data={[...states, "all"]}
          value={state}
          onChange={(s) => setState(s === "pending" ? "" : s)}
        />
      </div>
      <PagedTable<RequestBody>
        label="Requests"
        query={query}
        columns={columns}
        rowKey={(r) => r.id}
        empty={
          <Empty title={state === "all" ? "There are no requests" : `No request is ${state}`}>
            A role can say who may ask for it, for how long, and whether an administrator approves.
          </Empty>
        }
      />
      {asking && <Ask tenant={tenant} roles={roles} onClose={() => setAsking(false)} refresh={refresh} />}
    </Stack>
  );
}

function Ask({
  tenant,
  roles,
  onClose,
  refresh,
}: {
  tenant: string;
  roles: Schemas["RequestableBody"][];
  onClose: () => void;
  refresh: () => Promise<void>;
}) {
  const [name, setName] = useState<string | null>(roles.length === 1 ? roles[0]!.role : null);
  const [seconds, setSeconds] = useState(3600);
  const [reason, setReason] = useState("");
  const role = roles.find((r) => r.role === name);
  const breakGlass = role?.approval === "break_glass";
  return (
    <FormModal
      title="Ask for a role"
      submitLabel={breakGlass ? "Break the glass" : "Ask"}
      onClose={onClose}
      disabled={!role || !reason.trim() || seconds < 60}
      submit={async (key) => {
        await api.POST("/v1/tenants/{tenant}/requests", {
          params: { path: { tenant }, header: { "Idempotency-Key": key } },
          body: { role: role!.role, seconds, reason: reason.trim() },
        });
        await refresh();
        done(breakGlass ? `${role!.role} is granted to you` : "The request waits for an administrator");
      }}
    >
      {(at) => (
        <>
          <Select
            label="Role"
            required
            data={roles.map((r) => ({
              value: r.role,
              label: `${r.role}${r.approval === "break_glass" ? " (break glass)" : ""}${r.assigned ? " (you have it)" : ""}`,
            }))}
            value={name}
            onChange={(n) => {
              setName(n);
              const most = roles.find((r) => r.role === n)?.max_seconds;
              if (most && seconds > most) setSeconds(most);
            }}
            description={role?.description || undefined}
            error={at("/role")}
          />
          {breakGlass && (
            <Alert color="red" variant="light" icon={<IconAlertTriangle />} title="Break glass">
              It is granted at once, without approval. An alert goes out, and your reason is audited.
            </Alert>
          )}
          <DurationInput
            key={name}
            label="For how long"
            value={seconds}
            onChange={setSeconds}
            description={role ? `${duration(role.max_seconds)} at most` : undefined}
            error={at("/seconds")}
          />
          <Textarea
            label="Reason"
            description="Audited, and shown to who decides. No personal data."
            required
            maxLength={500}
            value={reason}
            onChange={(e) => setReason(e.currentTarget.value)}
            error={at("/reason")}
          />
        </>
      )}
    </FormModal>
  );
}
