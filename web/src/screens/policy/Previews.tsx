import { Anchor, Button, Group, Progress, Select, Stack, Table, Text, Title } from "@mantine/core";
import { useQueries } from "@tanstack/react-query";
import { useState } from "react";
import { Link } from "wouter";
import { $api, api } from "../../api/client";
import { isProblem } from "../../api/problem";
import { useCan } from "../../app/me";
import { Status } from "../../components/Status";
import { Empty, Failure, Loaded } from "../../components/states";
import { Time } from "../../components/Time";
import { ActivateModal, usePolicyChanged } from "./actions";
import { ReportView } from "./Report";
import { forgetPreview, type Report, recentPreviews } from "./report";
import { PreviewModal } from "./start";
import { Actor, count, Revision } from "./words";

export function Previews({ rest }: { rest: string[] }) {
  const [id] = rest;
  return id ? <Preview id={id} key={id} /> : <Recent />;
}

const options = (id: string) =>
  $api.queryOptions("get", "/v1/policy/previews/{preview}", { params: { path: { preview: id } } });

function Recent() {
  const can = useCan();
  const activations = $api.useQuery(
    "get",
    "/v1/policy/activations",
    { params: { query: { limit: 50 } } },
    { enabled: can("policy:list") },
  );
  const revisions = $api.useQuery(
    "get",
    "/v1/policy/revisions",
    { params: { query: { limit: 100 } } },
    { enabled: can("policy:list") },
  );
  const [revision, setRevision] = useState<string | null>(null);
  const [start, setStart] = useState(false);
  const named = (activations.data?.items ?? []).flatMap((a) => (a.preview ? [a.preview] : []));
  const ids = [...new Set([...recentPreviews(), ...named])].slice(0, 20);
  const queries = useQueries({ queries: ids.map((id) => ({ ...options(id), retry: false })) });
  const shown = queries.flatMap((q) => (q.data ? [q.data] : []));
  return (
    <Stack>
      {can("policy:preview") && (
        <Group align="flex-end">
          <Select
            label="Preview a revision"
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
          <Button disabled={!revision} onClick={() => setStart(true)}>
            Preview
          </Button>
        </Group>
      )}
      <Title order={2}>Recent previews</Title>
      {shown.length === 0 ? (
        <Empty title="No recent preview">
          Here are those that you started in this browser, and those that activations name. A preview evaluates a
          revision for everyone, and shows who would gain and lose what.
        </Empty>
      ) : (
        <Table.ScrollContainer minWidth={560}>
          <Table aria-label="Recent previews">
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Started</Table.Th>
                <Table.Th>Revision</Table.Th>
                <Table.Th>Against</Table.Th>
                <Table.Th>By</Table.Th>
                <Table.Th>State</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {shown.map((p) => (
                <Table.Tr key={p.id}>
                  <Table.Td>
                    <Anchor component={Link} href={`/policy/previews/${p.id}`} size="sm">
                      <Time at={p.started_at} />
                    </Anchor>
                  </Table.Td>
                  <Table.Td>
                    <Revision id={p.candidate} />
                  </Table.Td>
                  <Table.Td>
                    <Revision id={p.against} />
                  </Table.Td>
                  <Table.Td>
                    <Actor by={p.by} />
                  </Table.Td>
                  <Table.Td>
                    <Status value={p.state} />
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      {start && revision && <PreviewModal revision={revision} onClose={() => setStart(false)} />}
    </Stack>
  );
}

function Preview({ id }: { id: string }) {
  const can = useCan();
  const changed = usePolicyChanged();
  const query = $api.useQuery(
    "get",
    "/v1/policy/previews/{preview}",
    { params: { path: { preview: id } } },
    { refetchInterval: (q) => (q.state.data?.state === "running" ? 700 : false) },
  );
  const policy = $api.useQuery("get", "/v1/policy");
  const [activate, setActivate] = useState(false);
  const [error, setError] = useState<unknown>();
  const back = (
    <Anchor component={Link} href="/policy/previews" size="sm">
      All previews
    </Anchor>
  );
  if (isProblem(query.error, 404)) {
    forgetPreview(id);
    return (
      <Stack>
        {back}
        <Empty title="There is no such preview">It was removed, or its id is not right. Start another.</Empty>
      </Stack>
    );
  }
  return (
    <Stack>
      {back}
      <Loaded query={query} rows={6}>
        {(p) => {
          const report = p.report as Report | undefined;
          const active = policy.data?.last_activation?.revision;
          const isActive = active === p.candidate;
          return (
            <Stack>
              <Group justify="space-between" align="flex-start">
                <div>
                  <Group gap="xs">
                    <Title order={2}>
                      Preview of <Revision id={p.candidate} name={report?.name} />
                    </Title>
                    <Status value={p.state} />
                  </Group>
                  <Text size="sm" c="dimmed" component="div">
                    Against <Revision id={p.against} />, started <Time at={p.started_at} /> by <Actor by={p.by} />
                  </Text>
                </div>
                {p.state === "done" && can("policy:activate") && !isActive && (
                  <Button onClick={() => setActivate(true)}>Activate with this preview</Button>
                )}
                {p.state === "running" && can("policy:preview") && (
                  <Button
                    variant="default"
                    onClick={() =>
                      void api
                        .POST("/v1/policy/previews/{preview}:cancel", { params: { path: { preview: id } } })
                        .then(changed)
                        .catch(setError)
                    }
                  >
                    Cancel
                  </Button>
                )}
              </Group>
              {error !== undefined && <Failure error={error} />}
              {isActive && <Text size="sm">This revision is active now.</Text>}
              {p.state === "running" && (
                <>
                  <Progress
                    value={p.total > 0 ? Math.min(100, (p.done / p.total) * 100) : 0}
                    animated
                    aria-label="Progress of the preview"
                  />
                  <Text size="sm" role="status">
                    {count(p.done)} of about {count(p.total)} evaluations
                  </Text>
                </>
              )}
              {p.state === "failed" && (
                <Text size="sm">The preview failed: the log of the replica that ran it says why. Start another.</Text>
              )}
              {p.state === "cancelled" && <Text size="sm">The preview was cancelled.</Text>}
              {report && <ReportView report={report} id={id} />}
              {activate && (
                <ActivateModal
                  revision={p.candidate}
                  name={report?.name}
                  preview={p}
                  onClose={() => setActivate(false)}
                />
              )}
            </Stack>
          );
        }}
      </Loaded>
    </Stack>
  );
}
