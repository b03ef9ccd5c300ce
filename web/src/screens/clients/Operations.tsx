import { Alert, Code, Paper, Stack, Text, Timeline, Title } from "@mantine/core";
import { IconCheck, IconClock, IconLoader, IconMinus, IconX } from "@tabler/icons-react";
import { $api, type Schemas } from "../../api/client";
import { Status } from "../../components/Status";
import { Loaded } from "../../components/states";
import { Time } from "../../components/Time";

type Operation = Schemas["ClientOperation"];

const names: Record<Operation["operation"], string> = {
  create: "Creation",
  update: "Change",
  delete: "Deletion",
  rotate: "Rotation of the secret",
  retire: "End of the old secret",
};

const steps: Record<string, string> = {
  written: "Written here",
  sent: "Sent to the identity provider",
  confirmed: "Confirmed by the identity provider",
};

const states: Record<string, { words: string; icon: typeof IconCheck; color: string }> = {
  done: { words: "done", icon: IconCheck, color: "teal" },
  running: { words: "running", icon: IconLoader, color: "indigo" },
  waiting: { words: "waiting", icon: IconClock, color: "gray" },
  failed: { words: "failed", icon: IconX, color: "red" },
  omitted: { words: "omitted", icon: IconMinus, color: "gray" },
};

/** The steps of a client's pending and last operation; read again while one is pending. */
export function Operations({ id }: { id: string }) {
  const query = $api.useQuery(
    "get",
    "/v1/clients/{id}/operations",
    { params: { path: { id } } },
    { refetchInterval: (q) => (q.state.data?.items?.some((o) => o.status === "pending") ? 1500 : false) },
  );
  return (
    <Stack gap="xs" component="section" aria-label="Steps">
      <Title order={2}>Steps in the identity provider</Title>
      <Loaded query={query} rows={2}>
        {(page) =>
          (page.items ?? []).length === 0 ? (
            <Text size="sm" c="dimmed">
              No operation is recorded.
            </Text>
          ) : (
            (page.items ?? []).map((o) => <Steps key={`${o.operation} ${o.begun_at}`} of={o} />)
          )
        }
      </Loaded>
    </Stack>
  );
}

function Steps({ of: o }: { of: Operation }) {
  const list = o.steps ?? [];
  const done = list.filter((s) => s.status === "done").length;
  return (
    <Paper withBorder p="md">
      <Stack gap="sm">
        <Title order={3} fz="sm">
          {names[o.operation]} <Status value={o.status} />
        </Title>
        <Timeline active={done - 1} bulletSize={22} lineWidth={2}>
          {list.map((s) => {
            const state = states[s.status] ?? states.waiting!;
            return (
              <Timeline.Item
                key={s.step}
                title={steps[s.step] ?? s.step}
                color={state.color}
                bullet={<state.icon size={12} aria-hidden />}
              >
                <Text size="xs" c="dimmed">
                  {state.words}
                  {s.at ? " · " : ""}
                  {s.at && <Time at={s.at} />}
                  {s.step === "sent" && o.failures > 0
                    ? ` · ${o.failures} ${o.failures === 1 ? "attempt" : "attempts"} failed`
                    : ""}
                  {s.step === "sent" && o.status === "pending" && o.next_try ? (
                    <>
                      {" "}
                      · next at <Time at={o.next_try} />
                    </>
                  ) : null}
                </Text>
              </Timeline.Item>
            );
          })}
        </Timeline>
        {o.error && (
          <Alert color={o.status === "confirmed" ? "gray" : "yellow"} title="Last error">
            {o.error.detail} <Code>{o.error.code}</Code>
            {o.error.field ? (
              <>
                {" "}
                field <Code>{o.error.field}</Code>
              </>
            ) : null}
          </Alert>
        )}
      </Stack>
    </Paper>
  );
}
