import { Alert, Button, Group, Modal, Select, Stack, Text, Textarea, TextInput } from "@mantine/core";
import { useState } from "react";
import { useChanged } from "../../api/changes";
import { save } from "../../api/client";
import { isProblem } from "../../api/problem";
import { FormModal } from "../../components/form";
import { uploadBundle } from "../policy/Revisions";
import { PreviewModal } from "../policy/start";
import { PolicyFailure } from "../policy/words";
import { buildDraft, type Draft } from "./contract";
import type { DraftFile } from "./draft";

const own = "cases/playground.yaml";

/** Appends a case to a file of cases. */
export function CaseModal({
  yaml,
  files,
  append,
  onClose,
}: {
  yaml: string;
  files: DraftFile[];
  append: (path: string, yaml: string) => void;
  onClose: () => void;
}) {
  const [text, setText] = useState(yaml);
  const [path, setPath] = useState(own);
  const paths = [
    ...new Set([own, ...files.filter((f) => f.kind === "cases" && f.mark !== "removed").map((f) => f.path)]),
  ];
  return (
    <FormModal
      title="Save as acceptance case"
      submitLabel="Add the case"
      size="xl"
      disabled={text.trim() === ""}
      onClose={onClose}
      submit={async () => append(path, text.endsWith("\n") ? text : `${text}\n`)}
    >
      {() => (
        <>
          <Select
            label="File"
            description="Of the draft. The gate runs its cases before it accepts a policy."
            allowDeselect={false}
            value={path}
            onChange={(v) => setPath(v ?? own)}
            data={paths}
          />
          <Textarea
            label="Case"
            autosize
            minRows={8}
            maxRows={20}
            value={text}
            onChange={(e) => setText(e.currentTarget.value)}
            styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)", fontSize: 12 } }}
          />
        </>
      )}
    </FormModal>
  );
}

/** Builds the bundle of the draft and stores it as a revision; where the service wants a signature, offers it as a file. */
export function RevisionModal({ draft, onClose }: { draft: Draft; onClose: () => void }) {
  const changed = useChanged();
  const [name, setName] = useState("");
  const [busy, setBusy] = useState<"upload" | "download">();
  const [error, setError] = useState<unknown>();
  const [stored, setStored] = useState<{ revision: string; name?: string }>();
  const [preview, setPreview] = useState(false);
  const run = async (what: "upload" | "download") => {
    setBusy(what);
    setError(undefined);
    try {
      const bundle = await buildDraft({ ...draft, name: name.trim() });
      if (what === "download") save(bundle, `${name.trim() || "policy"}.tar.gz`);
      else {
        const revision = await uploadBundle(bundle, "console");
        await changed("/v1/policy");
        setStored(revision);
      }
    } catch (failed) {
      setError(failed);
    } finally {
      setBusy(undefined);
    }
  };
  if (preview && stored) return <PreviewModal revision={stored.revision} name={stored.name} onClose={onClose} />;
  const unsigned = isProblem(error) && /\bsign/i.test(`${error.problem.detail} ${error.problem.title}`);
  return (
    <Modal
      opened
      onClose={onClose}
      title="Save as revision"
      closeOnClickOutside={false}
      closeButtonProps={{ "aria-label": "Close" }}
    >
      {stored ? (
        <Stack>
          <Text size="sm" role="status">
            Revision {stored.revision} {stored.name} is stored. It is not active: see first who would gain and lose
            what.
          </Text>
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              Close
            </Button>
            <Button data-autofocus onClick={() => setPreview(true)}>
              Preview
            </Button>
          </Group>
        </Stack>
      ) : (
        <form
          onSubmit={(e) => {
            e.preventDefault();
            if (name.trim() !== "" && !busy) void run("upload");
          }}
        >
          <Stack>
            <Text size="sm">
              The draft is checked as a whole, acceptance cases among it, and stored. It does not become active.
            </Text>
            <TextInput
              label="Name"
              description="For people, such as a commit or a ticket."
              required
              data-autofocus
              maxLength={100}
              value={name}
              onChange={(e) => setName(e.currentTarget.value)}
              error={isProblem(error) ? error.field("/name") : undefined}
            />
            {error !== undefined && <PolicyFailure error={error} />}
            {unsigned && (
              <Alert color="blue" title="This service accepts signed bundles only" variant="light">
                Download the bundle, sign it with <code>iam-service policy sign</code>, and upload it under Revisions.
              </Alert>
            )}
            <Group justify="flex-end">
              <Button
                variant="default"
                loading={busy === "download"}
                disabled={name.trim() === ""}
                onClick={() => void run("download")}
              >
                Download the bundle
              </Button>
              <Button type="submit" loading={busy === "upload"} disabled={name.trim() === ""}>
                Save
              </Button>
            </Group>
          </Stack>
        </form>
      )}
    </Modal>
  );
}
