import { Alert, Anchor, Button, Group, List, Loader, Paper, Stack, Text } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useRef, useState } from "react";
import { useSearchParams } from "wouter";
import { api } from "../../api/client";
import { isProblem } from "../../api/problem";
import { useCan, useMe } from "../../app/me";
import { CodeEditor, type Finding } from "../../components/CodeEditor";
import { useDialogs } from "../../components/dialogs";
import type { FieldErrors } from "../../components/form";
import { Page } from "../../components/Page";
import { Empty, Failure, Loading } from "../../components/states";
import { type Changes, type DraftError, evaluate, type RevisionFiles, readFiles } from "./contract";
import { filesOf, loadDrafts, type Owner, saveDraft, withCase, withText } from "./draft";
import { Files } from "./Files";
import classes from "./Playground.module.css";
import { QuestionForm } from "./QuestionForm";
import { askedFrom, questionOf, searchOf } from "./question";
import { Heading, Result } from "./Result";
import { CaseModal, RevisionModal } from "./Save";

const pause = 300; // ms without a key before the draft is evaluated

function useFiles(revision: string, options: { enabled?: boolean; refetchInterval?: number } = {}) {
  return useQuery({
    queryKey: ["policy files", revision],
    queryFn: ({ signal }) => readFiles(revision, signal),
    ...options,
  });
}

/** Edits a policy, and shows what it decides. */
export default function Playground() {
  const me = useMe();
  const can = useCan();
  const [params] = useSearchParams();
  const { issuer, subject } = me.data ?? {};
  const owner = useMemo(() => (subject ? { issuer, subject } : undefined), [issuer, subject]);
  const last = useMemo(() => (owner ? loadDrafts(owner).last : undefined), [owner]);
  const revision = params.get("revision") || last || "active";
  const base = useFiles(revision, { enabled: !!owner });
  // What was active when the page was opened stays the base when another revision becomes active.
  const pinned = useRef(new Map<string, RevisionFiles>());
  if (base.data && !pinned.current.has(revision)) pinned.current.set(revision, base.data);
  const files = pinned.current.get(revision);
  const title = "Playground";
  if (me.data && !can("policy:evaluate"))
    return (
      <Page title={title}>
        <Empty title="You may not evaluate policies">An administrator of the policy may.</Empty>
      </Page>
    );
  if (files && owner) return <Workbench key={files.digest} base={files} owner={owner} />;
  return (
    <Page title={title}>
      {base.isError ? (
        <>
          <Failure error={base.error} retry={() => void base.refetch()} />
          {revision !== "active" && (
            <Anchor href="#/policy/playground?revision=active">Open the active revision instead</Anchor>
          )}
        </>
      ) : (
        <Loading rows={10} />
      )}
    </Page>
  );
}

function Workbench({ base, owner }: { base: RevisionFiles; owner: Owner }) {
  const can = useCan();
  const dialogs = useDialogs();
  const [params, setParams] = useSearchParams();
  const [changes, setChanges] = useState<Changes>(() => loadDrafts(owner).changes[base.revision] ?? {});
  const [stored, setStored] = useState(true);
  const [asked, setAsked] = useState(() => askedFrom(params));
  const [goTo, setGoTo] = useState<{ row: number; col: number }>();
  const [saving, setSaving] = useState<"revision" | { yaml: string }>();
  const active = useFiles("active", { refetchInterval: 15_000 });

  const files = useMemo(() => filesOf(base.files, changes), [base.files, changes]);
  const texts = useMemo(
    () => Object.fromEntries(files.filter((f) => f.mark !== "removed").map((f) => [f.path, f.text])),
    [files],
  );
  const wanted = params.get("file");
  const file =
    files.find((f) => f.path === wanted) ?? files.find((f) => f.path === "iam/claims/claims.rego") ?? files[0];
  const changedFiles = files.filter((f) => f.mark).length;

  useEffect(() => {
    setStored(saveDraft(owner, base.revision, changes));
  }, [owner, base.revision, changes]);

  const [settled] = useDebouncedValue(asked, pause);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the URL follows the question, not the other way
  useEffect(() => {
    const next = searchOf(settled, params);
    if (next.toString() !== params.toString()) setParams(next, { replace: true });
  }, [settled]);

  const question = useMemo(() => questionOf(settled), [settled]);
  const [draft] = useDebouncedValue(changes, pause);
  const result = useQuery({
    queryKey: ["policy evaluate", base.digest, draft, question],
    queryFn: async ({ signal }) => {
      const began = performance.now();
      const answer = await evaluate({ base: base.revision, files: draft, question, cases: true }, signal);
      return { ...answer, waited: performance.now() - began };
    },
    placeholderData: keepPreviousData,
    gcTime: 60_000,
    retry: (failures, error) =>
      failures < 3 && (isProblem(error, "superseded", 429, 503) || error instanceof TypeError),
  });
  // The active policy's result is asked for in another way: a newer evaluation ends the older one.
  const activeResult = useQuery({
    queryKey: ["policy explain", active.data?.digest, question],
    queryFn: async ({ signal }) => (await api.POST("/v1/policy/explain", { body: question!, signal })).data!,
    enabled: question !== undefined && can("policy:explain"),
    placeholderData: keepPreviousData,
    gcTime: 60_000,
  });
  const waiting = result.isFetching || draft !== changes || settled !== asked;

  const errors = result.data?.errors ?? [];
  const findings = useMemo(
    () =>
      errors
        .filter((e) => e.file === file?.path)
        .map(
          (e): Finding => ({
            row: e.row ?? 1,
            col: e.col ?? 1,
            endRow: e.end_row,
            endCol: e.end_col,
            message: `${e.message} (${e.code})`,
            severity: "error",
          }),
        ),
    [errors, file?.path],
  );
  const at: FieldErrors = (pointer) => (isProblem(result.error) ? result.error.field(pointer) : undefined);

  const select = (path: string) =>
    setParams(
      (before) => {
        const next = new URLSearchParams(before);
        next.set("file", path);
        return next;
      },
      { replace: true },
    );
  const edit = (path: string, text: string | null) => setChanges((c) => withText(base.files, c, path, text));
  const revert = (path: string) =>
    setChanges((c) => {
      const { [path]: _, ...rest } = c;
      return rest;
    });
  const go = (e: DraftError) => {
    if (e.file && files.some((f) => f.path === e.file)) select(e.file);
    // The editor shows the file first.
    setTimeout(() => setGoTo({ row: e.row ?? 1, col: e.col ?? 1 }));
  };

  const isActive = active.data?.digest === base.digest;
  return (
    <Page
      title="Playground"
      description={
        <>
          Revision {base.revision}
          {isActive ? ", the active one" : ""}.{" "}
          {changedFiles === 0
            ? "No file is changed."
            : `${changedFiles} ${changedFiles === 1 ? "file is" : "files are"} changed, in this browser.`}{" "}
          Nothing is activated here.
        </>
      }
      actions={
        <>
          {changedFiles > 0 && (
            <Button
              variant="default"
              onClick={() =>
                void dialogs.confirm({
                  title: "Discard the draft?",
                  children: `The changes of ${changedFiles} ${changedFiles === 1 ? "file" : "files"} are lost.`,
                  confirm: "Discard",
                  danger: true,
                  run: async () => setChanges({}),
                })
              }
            >
              Discard
            </Button>
          )}
          {can("policy:upload") && (
            <Button
              disabled={changedFiles === 0 || !result.data?.compiled || waiting}
              onClick={() => setSaving("revision")}
            >
              Save as revision
            </Button>
          )}
        </>
      }
    >
      {active.data && !isActive && (
        <Alert color="yellow" variant="light" title="Another revision is active" role="alert">
          <Stack gap="xs" align="flex-start">
            <Text size="sm">
              This draft is based on {base.revision}; {active.data.revision} is active now. A revision saved from here
              lacks what has changed since.
            </Text>
            <Group gap="xs">
              <Button
                size="compact-sm"
                variant="default"
                onClick={() => {
                  const there = loadDrafts(owner).changes[active.data.revision] ?? {};
                  saveDraft(owner, active.data.revision, { ...there, ...changes });
                  setParams((p) => {
                    const next = new URLSearchParams(p);
                    next.set("revision", active.data.revision);
                    return next;
                  });
                }}
              >
                Take the changes to the active one
              </Button>
              <Anchor size="sm" href={`#/policy/revisions?compare=&before=${base.revision}&after=active`}>
                What has changed
              </Anchor>
            </Group>
          </Stack>
        </Alert>
      )}
      {!stored && (
        <Alert color="yellow" title="The draft cannot be stored in this browser" role="alert">
          Its storage is full. Save the draft as a revision, or it is lost with this page.
        </Alert>
      )}
      <div className={classes.columns}>
        <section className={classes.edit} aria-label="Files of the draft">
          <Files
            files={files}
            selected={file?.path ?? ""}
            errors={(path) => errors.filter((e) => e.file === path).length}
            select={select}
            add={(path) => {
              const pkg = path.split("/").slice(0, -1).join(".");
              edit(
                path,
                path.endsWith(".rego") ? `package ${pkg || "policy"}\n\n` : path.endsWith("json") ? "{}\n" : "cases:\n",
              );
              select(path);
            }}
            remove={(path) => edit(path, null)}
            revert={revert}
          />
          <div className={classes.editor}>
            {file?.mark === "removed" ? (
              <Empty
                title="This file is removed from the draft"
                action={
                  <Button variant="default" onClick={() => revert(file.path)}>
                    Bring it back
                  </Button>
                }
              />
            ) : file ? (
              <CodeEditor
                path={file.path}
                value={file.text}
                onChange={(text) => edit(file.path, text)}
                files={texts}
                findings={findings}
                goTo={goTo}
              />
            ) : null}
          </div>
          <Problems errors={errors} warnings={result.data?.warnings ?? []} go={go} />
        </section>
        <div className={classes.side}>
          <Paper withBorder p="sm" component="section" aria-labelledby="question">
            <Heading id="question">Question</Heading>
            <QuestionForm asked={asked} onChange={setAsked} at={at} />
          </Paper>
          <Paper withBorder p="sm" component="section" aria-labelledby="result">
            <Group justify="space-between" align="baseline">
              <Heading id="result">Result</Heading>
              <Text size="xs" c="dimmed" component="div">
                {waiting ? (
                  <Loader size={12} aria-label="Evaluating" />
                ) : (
                  result.data &&
                  `${(result.data.took_microseconds / 1000).toFixed(0)} ms on the service, ${result.data.waited.toFixed(0)} ms in all`
                )}
              </Text>
            </Group>
            {result.isError && <Failure error={result.error} retry={() => void result.refetch()} />}
            {result.data ? (
              <Result
                result={result.data}
                active={activeResult}
                asked={question !== undefined}
                saveCase={(yaml) => setSaving({ yaml })}
              />
            ) : (
              !result.isError && <Loading />
            )}
          </Paper>
        </div>
      </div>
      {saving === "revision" && (
        <RevisionModal draft={{ base: base.revision, files: changes }} onClose={() => setSaving(undefined)} />
      )}
      {typeof saving === "object" && (
        <CaseModal
          yaml={saving.yaml}
          files={files}
          append={(path, yaml) => {
            edit(path, withCase(texts[path], yaml));
            select(path);
          }}
          onClose={() => setSaving(undefined)}
        />
      )}
    </Page>
  );
}

function Problems({ errors, warnings, go }: { errors: DraftError[]; warnings: string[]; go: (e: DraftError) => void }) {
  if (errors.length === 0 && warnings.length === 0) return null;
  return (
    <Paper withBorder p="xs" component="section" aria-label="Problems" role="log">
      <List size="sm" spacing={2} listStyleType="none">
        {errors.map((e) => (
          <List.Item key={`${e.file} ${e.row} ${e.col} ${e.message}`}>
            <Anchor component="button" type="button" size="sm" ta="left" onClick={() => go(e)}>
              {e.file ?? "draft"}
              {e.row ? `:${e.row}:${e.col ?? 1}` : ""}
            </Anchor>{" "}
            {e.message}
          </List.Item>
        ))}
        {warnings.map((w) => (
          <List.Item key={w}>Warning: {w}</List.Item>
        ))}
      </List>
    </Paper>
  );
}
