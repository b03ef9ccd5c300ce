// Activating and rolling back: with a reason, which the audit log records.
import { Checkbox, Select, Stack, Text, Textarea } from "@mantine/core";
import { useState } from "react";
import { useChanged } from "../../api/changes";
import { $api, api, type Schemas } from "../../api/client";
import { done, FormModal } from "../../components/form";
import { Time } from "../../components/Time";
import { Revision, withWords } from "./words";

/** Reads again what an activation changes. */
export function usePolicyChanged() {
  const changed = useChanged();
  return () => changed("/v1/policy", "/v1/overview");
}

/** Activates a revision, with the preview that it is based on. */
export function ActivateModal({
  revision,
  name,
  preview,
  onClose,
}: {
  revision: string;
  name?: string;
  preview?: Schemas["PreviewBody"];
  onClose: () => void;
}) {
  const [reason, setReason] = useState("");
  const [force, setForce] = useState(false);
  const changed = usePolicyChanged();
  return (
    <FormModal
      title={`Activate ${name || revision}`}
      submitLabel="Activate"
      disabled={reason.trim() === ""}
      onClose={onClose}
      submit={() =>
        withWords(async () => {
          await api.POST("/v1/policy/revisions/{revision}:activate", {
            params: { path: { revision } },
            body: { reason: reason.trim(), ...(preview ? { preview: preview.id } : {}), ...(force ? { force } : {}) },
          });
          await changed();
          done(`${name || revision} is active`);
        })
      }
    >
      {(at) => (
        <>
          <Text size="sm" component="div">
            All replicas switch to <Revision id={revision} name={name} /> within a second, once each has prepared it.{" "}
            {preview ? (
              <>
                Based on the preview that <Time at={preview.finished_at} ago /> finished ({preview.id}).
              </>
            ) : (
              "No preview is named: see first who would gain and lose what."
            )}
          </Text>
          <Textarea
            label="Reason"
            description="Recorded in the audit log."
            required
            data-autofocus
            value={reason}
            onChange={(e) => setReason(e.currentTarget.value)}
            error={at("/reason")}
          />
          <Checkbox
            label="Even if a replica has not prepared it"
            description="Such a replica stays with the revision that it has. Only in an emergency."
            checked={force}
            onChange={(e) => setForce(e.currentTarget.checked)}
          />
        </>
      )}
    </FormModal>
  );
}

/** Rolls back: the revision that was active before is chosen already. */
export function RollbackModal({ to, onClose }: { to?: string; onClose: () => void }) {
  const activations = $api.useQuery("get", "/v1/policy/activations", { params: { query: { limit: 100 } } });
  const items = activations.data?.items ?? [];
  const active = items[0]?.revision;
  const seen = new Set<string>(active ? [active] : []);
  const earlier = items.filter((a) => !seen.has(a.revision) && seen.add(a.revision));
  const [chosen, setChosen] = useState(to);
  const [reason, setReason] = useState("");
  const changed = usePolicyChanged();
  const revision = chosen ?? earlier[0]?.revision;
  return (
    <FormModal
      title="Roll back"
      submitLabel="Roll back"
      disabled={reason.trim() === "" || !revision}
      onClose={onClose}
      submit={() =>
        withWords(async () => {
          await api.POST("/v1/policy/revisions/{revision}:rollback", {
            params: { path: { revision: revision! } },
            body: { reason: reason.trim() },
          });
          await changed();
          done(`${revision} is active again`);
        })
      }
    >
      {(at) => (
        <Stack>
          {activations.isSuccess && earlier.length === 0 ? (
            <Text size="sm">There is no earlier activation to roll back to.</Text>
          ) : (
            <Select
              label="To"
              description="The one that was active before is chosen."
              allowDeselect={false}
              value={revision ?? null}
              onChange={(v) => setChosen(v ?? undefined)}
              data={earlier.map((a) => ({
                value: a.revision,
                label: `${a.revision}${a.name ? ` ${a.name}` : ""}, active ${new Date(a.at).toLocaleString()}`,
              }))}
            />
          )}
          <Textarea
            label="Reason"
            description="Recorded in the audit log."
            required
            data-autofocus
            value={reason}
            onChange={(e) => setReason(e.currentTarget.value)}
            error={at("/reason")}
          />
        </Stack>
      )}
    </FormModal>
  );
}
