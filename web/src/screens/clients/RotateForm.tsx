import { Alert, Checkbox, Select, Text } from "@mantine/core";
import { useState } from "react";
import { api } from "../../api/client";
import { FormModal } from "../../components/form";
import { Time } from "../../components/Time";
import type { Client } from "./rules";

const overlaps = [
  { value: "0", label: "None: the old secret is revoked at once" },
  { value: "1h", label: "1 hour" },
  { value: "24h", label: "24 hours" },
  { value: "168h", label: "7 days" },
  { value: "720h", label: "30 days" },
];

/** Rotates the secret of a client: how long the old one goes on working, and the end of an overlap that runs. */
export function RotateForm({
  client: c,
  onRotated,
  onClose,
}: {
  client: Client;
  onRotated: (client: Client) => void;
  onClose: () => void;
}) {
  const [overlap, setOverlap] = useState("24h");
  const [retire, setRetire] = useState(false);
  const running = c.old_secret_until !== undefined;
  return (
    <FormModal
      title={`Rotate the secret of ${c.client_name || c.client_id}`}
      submitLabel="Rotate"
      disabled={running && !retire}
      onClose={onClose}
      submit={async (key) => {
        const { data } = await api.POST("/v1/clients/{id}/secrets:rotate", {
          params: { path: { id: c.client_id }, header: { "Idempotency-Key": key } },
          body: { overlap, ...(running ? { retire_old: retire } : {}) },
        });
        onRotated(data as Client);
      }}
    >
      {(at) => (
        <>
          <Text size="sm">
            The identity provider issues a new secret, which is shown once. The old one works until the overlap ends:
            time to give the new one to the client.
          </Text>
          {running && (
            <Alert color="yellow" title="An overlap runs already">
              The secret before the current one works until <Time at={c.old_secret_until} />. Wait until then, or end it
              now.
              <Checkbox
                mt="xs"
                label="End the running overlap now: only the current and the new secret work then"
                checked={retire}
                onChange={(e) => setRetire(e.currentTarget.checked)}
              />
            </Alert>
          )}
          <Select
            label="Overlap"
            description="How long the current secret goes on working"
            data={overlaps}
            value={overlap}
            allowDeselect={false}
            onChange={(v) => v && setOverlap(v)}
            error={at("/overlap")}
          />
        </>
      )}
    </FormModal>
  );
}
