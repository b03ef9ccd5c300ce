import { Button, Group, NumberInput, Select, SimpleGrid, Stack, Table, Text, Title } from "@mantine/core";
import { useState } from "react";
import { useSearchParams } from "wouter";
import { $api, api, type Schemas } from "../../api/client";
import { useCan } from "../../app/me";
import { done } from "../../components/form";
import { Empty, Loaded } from "../../components/states";
import { Time } from "../../components/Time";
import { usePolicyChanged } from "./actions";
import { Bars } from "./Bars";
import { codesText, count, kindLabel, kinds, PolicyFailure, Revision } from "./words";

/** A revision that is evaluated beside the active one for live requests, and what it would decide otherwise. */
export function Shadow(_: { rest: string[] }) {
  const can = useCan();
  const shadow = $api.useQuery("get", "/v1/policy/shadow", {}, { refetchInterval: 2000 });
  return (
    <Loaded query={shadow}>
      {(s) => (
        <Stack>
          {can("policy:shadow") && <Control set={s} />}
          {s.here.revision ? (
            <Figures state={s.here} />
          ) : (
            <Empty title="No shadow was evaluated yet">
              A shadow decides live requests in the background: no request waits for it, and what it would decide
              otherwise is counted here.
            </Empty>
          )}
        </Stack>
      )}
    </Loaded>
  );
}

function Control({ set }: { set: Schemas["ShadowSeen"] }) {
  const [params] = useSearchParams();
  const revisions = $api.useQuery("get", "/v1/policy/revisions", { params: { query: { limit: 100 } } });
  const [revision, setRevision] = useState<string | null>(params.get("revision"));
  const [percent, setPercent] = useState<string | number>(10);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const changed = usePolicyChanged();
  const running = set.revision && set.share > 0;
  const send = async (to: string, share: number, message: string) => {
    setBusy(true);
    setError(undefined);
    try {
      await api.POST("/v1/policy/revisions/{revision}:shadow", {
        params: { path: { revision: to } },
        body: { share },
      });
      await changed();
      done(message);
    } catch (failed) {
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return (
    <section aria-labelledby="shadow-control">
      <Title order={2} id="shadow-control" mb="xs">
        {running ? "Running" : "Start a shadow"}
      </Title>
      {running ? (
        <Group>
          <Text size="sm">
            <Revision id={set.revision} /> for {Math.round(set.share * 100)} % of requests, since{" "}
            <Time at={set.set_at} />.
          </Text>
          <Button variant="default" loading={busy} onClick={() => void send(set.revision!, 0, "The shadow is stopped")}>
            Stop
          </Button>
        </Group>
      ) : (
        <Group align="flex-end">
          <Select
            label="Revision"
            placeholder="Choose"
            searchable
            w={320}
            maw="100%"
            value={revision}
            onChange={setRevision}
            data={(revisions.data?.items ?? []).map((r) => ({
              value: r.revision,
              label: `${r.revision}${r.name ? ` ${r.name}` : ""}`,
            }))}
          />
          <NumberInput label="Percent of requests" min={1} max={100} value={percent} onChange={setPercent} w={160} />
          <Button
            loading={busy}
            disabled={!revision || !(Number(percent) > 0)}
            onClick={() => void send(revision!, Number(percent) / 100, "The shadow is running")}
          >
            Start
          </Button>
        </Group>
      )}
      {error !== undefined && <PolicyFailure error={error} />}
    </section>
  );
}

function Figures({ state }: { state: Schemas["ShadowState"] }) {
  const differences = Object.values(state.counts ?? {}).reduce((a, b) => a + b, 0);
  return (
    <Stack>
      <Title order={2}>Found by the replica that responds</Title>
      <SimpleGrid cols={{ base: 2, sm: 4 }}>
        {(
          [
            ["Evaluated", state.asked],
            ["Differences", differences],
            ["Not evaluated, queue full", state.dropped],
            ["Facts not readable", state.failed],
          ] as const
        ).map(([label, n]) => (
          <div key={label}>
            <Text size="xs" c="dimmed">
              {label}
            </Text>
            <Text fw={700} size="xl">
              {count(n)}
            </Text>
          </div>
        ))}
      </SimpleGrid>
      <Text size="sm" c="dimmed">
        <Revision id={state.revision} />, since <Time at={state.since} />.
      </Text>
      <Bars
        title="Differences by kind"
        rows={kinds
          .filter((k) => state.counts?.[k.kind])
          .map((k) => ({ label: k.label, value: state.counts[k.kind]!, colour: k.colour }))}
      />
      {(state.samples ?? []).length > 0 && (
        <section aria-labelledby="samples">
          <Title order={3} id="samples" mb="xs">
            Samples
          </Title>
          <Table.ScrollContainer minWidth={640}>
            <Table aria-label="Samples">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>Kind</Table.Th>
                  <Table.Th>Who</Table.Th>
                  <Table.Th>Tenant</Table.Th>
                  <Table.Th>Active</Table.Th>
                  <Table.Th>Shadow</Table.Th>
                  <Table.Th>Headers</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {(state.samples ?? []).map((c, i) => (
                  // biome-ignore lint/suspicious/noArrayIndexKey: samples have no identity
                  <Table.Tr key={i}>
                    <Table.Td>{kindLabel(c.kind)}</Table.Td>
                    <Table.Td>{c.subject || c.client_id || "anonymous"}</Table.Td>
                    <Table.Td>{c.tenant || "–"}</Table.Td>
                    <Table.Td>
                      {c.before.status} {codesText(c.before.codes)}
                    </Table.Td>
                    <Table.Td>
                      {c.after.error ?? c.after.status} {codesText(c.after.codes)}
                    </Table.Td>
                    <Table.Td>
                      {(c.headers ?? []).map((h) => `${h.name}: ${h.before} → ${h.after}`).join("; ")}
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        </section>
      )}
    </Stack>
  );
}
