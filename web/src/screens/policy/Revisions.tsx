import { Badge, Button, FileButton, Group, Menu, Select, Stack, Text, Title } from "@mantine/core";
import { IconDots, IconUpload } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useState } from "react";
import { Link, useSearchParams } from "wouter";
import { useChanged } from "../../api/changes";
import { $api, api, type Schemas } from "../../api/client";
import { usePages } from "../../api/pages";
import { useCan } from "../../app/me";
import { PagedTable } from "../../components/DataTable";
import { done } from "../../components/form";
import { Empty, Loading } from "../../components/states";
import { Time } from "../../components/Time";
import { readFiles } from "../playground/contract";
import { ActivateModal, RollbackModal } from "./actions";
import { PreviewModal } from "./start";
import { Actor, PolicyFailure, Revision } from "./words";

const CodeCompare = lazy(() => import("../../components/CodeEditor").then((m) => ({ default: m.CodeCompare })));

type Row = Schemas["RevisionBody"];
type Doing = { what: "preview" | "activate" | "rollback"; row: Row };

/** Uploads a bundle. It is validated and stored, not activated. */
export async function uploadBundle(bundle: Blob, source: string): Promise<Row> {
  const { data } = await api.POST("/v1/policy/revisions", {
    params: { query: { source } },
    headers: { "Content-Type": "application/gzip" },
    // biome-ignore lint/suspicious/noExplicitAny: a stream of bytes is a string for the generator
    body: bundle as any,
    bodySerializer: (b: unknown) => b as Blob,
  });
  return data!;
}

export function Revisions(_: { rest: string[] }) {
  const can = useCan();
  const changed = useChanged();
  const [params, setParams] = useSearchParams();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const [doing, setDoing] = useState<Doing>();
  const policy = $api.useQuery("get", "/v1/policy", {}, { enabled: can("policy:read") });
  const list = usePages("/v1/policy/revisions", {});
  const rows = list.data?.pages.flatMap((p) => p.items ?? []) ?? [];
  const active = policy.data?.last_activation?.revision;
  const compare = params.has("compare");
  const upload = async (file: File | null) => {
    if (!file) return;
    setBusy(true);
    setError(undefined);
    try {
      const stored = await uploadBundle(file, file.name);
      await changed("/v1/policy");
      done(`${stored.name || stored.revision} is stored`);
    } catch (failed) {
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  const choose = (change: Record<string, string>) =>
    setParams(
      (before) => {
        const next = new URLSearchParams(before);
        for (const [k, v] of Object.entries(change)) next.set(k, v);
        return next;
      },
      { replace: true },
    );
  return (
    <Stack>
      <Group justify="space-between">
        <Group gap="xs">
          {can("policy:upload") && (
            <FileButton onChange={(f) => void upload(f)} accept=".tar.gz,.tgz,application/gzip">
              {(props) => (
                <Button {...props} loading={busy} leftSection={<IconUpload size={16} />}>
                  Upload a bundle
                </Button>
              )}
            </FileButton>
          )}
          {can("policy:source") && rows.length > 0 && !compare && (
            <Button
              variant="default"
              onClick={() => choose({ compare: "", before: active ?? rows[0]!.revision, after: rows[0]!.revision })}
            >
              Compare two
            </Button>
          )}
        </Group>
      </Group>
      {error !== undefined && <PolicyFailure error={error} />}
      {compare && (
        <Compare
          revisions={rows}
          before={params.get("before") ?? "active"}
          after={params.get("after") ?? "active"}
          choose={choose}
          close={() => setParams({})}
        />
      )}
      <PagedTable
        label="Revisions"
        query={list}
        rowKey={(r) => r.digest}
        rowHeight={56}
        empty={
          <Empty title="No revision is stored">
            Upload the bundle that <code>iam-service policy build</code> writes, or save a draft of the playground.
          </Empty>
        }
        columns={[
          {
            key: "revision",
            header: "Revision",
            cell: (r) => (
              <>
                <Revision id={r.revision} name={r.name} />{" "}
                {r.revision === active && (
                  <Badge variant="light" color="teal" c="var(--mantine-color-text)" tt="none">
                    active
                  </Badge>
                )}
              </>
            ),
          },
          {
            key: "added",
            header: "Added",
            cell: (r) => (
              <>
                <Time at={r.added_at} />{" "}
                <Text size="xs" c="dimmed" component="div">
                  <Actor by={r.added_by} />
                </Text>
              </>
            ),
          },
          {
            key: "source",
            header: "Source",
            cell: (r) => (
              <Text size="sm" lineClamp={1} title={r.source}>
                {r.source}
              </Text>
            ),
          },
          {
            key: "signature",
            header: "Signature verified by",
            cell: (r) => ({ key: "this service", opa: "OPA", nobody: "nobody" })[r.verified],
          },
          {
            key: "activations",
            header: "Last activated",
            cell: (r) => (r.activations > 0 ? <Time at={r.last_in_force} ago /> : "never"),
          },
          {
            key: "actions",
            header: <span className="mantine-visually-hidden">Actions</span>,
            width: 60,
            align: "right",
            cell: (r) => (
              <Menu position="bottom-end">
                <Menu.Target>
                  <Button size="compact-sm" variant="subtle" aria-label={`Actions of ${r.name || r.revision}`}>
                    <IconDots size={16} />
                  </Button>
                </Menu.Target>
                <Menu.Dropdown>
                  {can("policy:evaluate") && (
                    <Menu.Item component={Link} href={`/policy/playground?revision=${r.revision}`}>
                      Open in the playground
                    </Menu.Item>
                  )}
                  {can("policy:source") && (
                    <Menu.Item onClick={() => choose({ compare: "", before: active ?? "active", after: r.revision })}>
                      Compare with the active one
                    </Menu.Item>
                  )}
                  {can("policy:preview") && r.revision !== active && (
                    <Menu.Item onClick={() => setDoing({ what: "preview", row: r })}>Preview</Menu.Item>
                  )}
                  {can("policy:shadow") && r.revision !== active && (
                    <Menu.Item component={Link} href={`/policy/shadow?revision=${r.revision}`}>
                      Run as shadow
                    </Menu.Item>
                  )}
                  {can("policy:activate") && r.activations === 0 && (
                    <Menu.Item onClick={() => setDoing({ what: "activate", row: r })}>Activate</Menu.Item>
                  )}
                  {can("policy:rollback") && r.activations > 0 && r.revision !== active && (
                    <Menu.Item onClick={() => setDoing({ what: "rollback", row: r })}>Roll back to it</Menu.Item>
                  )}
                </Menu.Dropdown>
              </Menu>
            ),
          },
        ]}
      />
      {doing?.what === "preview" && (
        <PreviewModal revision={doing.row.revision} name={doing.row.name} onClose={() => setDoing(undefined)} />
      )}
      {doing?.what === "activate" && (
        <ActivateModal revision={doing.row.revision} name={doing.row.name} onClose={() => setDoing(undefined)} />
      )}
      {doing?.what === "rollback" && <RollbackModal to={doing.row.revision} onClose={() => setDoing(undefined)} />}
    </Stack>
  );
}

function useFiles(revision: string) {
  return useQuery({
    queryKey: ["policy files", revision],
    queryFn: ({ signal }) => readFiles(revision, signal),
    staleTime: revision === "active" ? 5_000 : Number.POSITIVE_INFINITY,
  });
}

function Compare({
  revisions,
  before,
  after,
  choose,
  close,
}: {
  revisions: Row[];
  before: string;
  after: string;
  choose: (change: Record<string, string>) => void;
  close: () => void;
}) {
  const a = useFiles(before);
  const b = useFiles(after);
  const [params] = useSearchParams();
  const options = [
    { value: "active", label: "the active one" },
    ...revisions.map((r) => ({ value: r.revision, label: `${r.revision}${r.name ? ` ${r.name}` : ""}` })),
  ];
  const texts = (q: typeof a) => new Map((q.data?.files ?? []).map((f) => [f.path, f.text]));
  const [left, right] = [texts(a), texts(b)];
  const different = [...new Set([...left.keys(), ...right.keys()])].sort().filter((p) => left.get(p) !== right.get(p));
  const wanted = params.get("file");
  const file = wanted && different.includes(wanted) ? wanted : different[0];
  const mark = (p: string) => (left.has(p) ? (right.has(p) ? p : `${p} (removed)`) : `${p} (new)`);
  const failed = a.error ?? b.error;
  return (
    <section aria-labelledby="compare">
      <Group justify="space-between" mb="xs">
        <Title order={2} id="compare">
          Compare
        </Title>
        <Button size="compact-sm" variant="subtle" onClick={close}>
          Close
        </Button>
      </Group>
      <Group align="flex-end" mb="sm">
        <Select
          label="Before"
          allowDeselect={false}
          value={before}
          data={options}
          onChange={(v) => choose({ before: v ?? "active" })}
        />
        <Select
          label="After"
          allowDeselect={false}
          value={after}
          data={options}
          onChange={(v) => choose({ after: v ?? "active" })}
        />
        {file && (
          <Select
            label={`File, ${different.length} differ`}
            allowDeselect={false}
            value={file}
            w={320}
            data={different.map((p) => ({ value: p, label: mark(p) }))}
            onChange={(v) => choose({ file: v ?? "" })}
          />
        )}
      </Group>
      {failed ? (
        <PolicyFailure error={failed} />
      ) : !a.data || !b.data ? (
        <Loading />
      ) : file ? (
        <Suspense fallback={<Loading />}>
          <CodeCompare path={file} before={left.get(file) ?? ""} after={right.get(file) ?? ""} />
        </Suspense>
      ) : (
        <Text size="sm">All files are equal.</Text>
      )}
    </section>
  );
}
