import { Select, Switch, Text } from "@mantine/core";
import { useState } from "react";
import { api } from "../../api/client";
import { navigate } from "../../app/location";
import { FormModal } from "../../components/form";
import { rememberPreview } from "./report";
import { Revision, withWords } from "./words";

/** Starts a preview of a revision, and opens it. */
export function PreviewModal({ revision, name, onClose }: { revision: string; name?: string; onClose: () => void }) {
  const [replay, setReplay] = useState(false);
  const [window, setWindow] = useState("24h");
  return (
    <FormModal
      title="Preview"
      submitLabel="Start the preview"
      onClose={onClose}
      submit={() =>
        withWords(async () => {
          const { data } = await api.POST("/v1/policy/preview", {
            body: { revision, ...(replay ? { replay: window } : {}) },
          });
          rememberPreview(data!.id);
          navigate(`/policy/previews/${data!.id}`);
        })
      }
    >
      {(at) => (
        <>
          <Text size="sm" component="div">
            Evaluates <Revision id={revision} name={name} /> and the active revision for each user in each tenant and
            for each client. Nothing is activated.
          </Text>
          <Switch
            label="Evaluate recorded decisions again"
            checked={replay}
            onChange={(e) => setReplay(e.currentTarget.checked)}
          />
          {replay && (
            <Select
              label="Recorded in the last"
              allowDeselect={false}
              value={window}
              onChange={(v) => setWindow(v ?? "24h")}
              data={[
                { value: "1h", label: "hour" },
                { value: "24h", label: "24 hours" },
                { value: "168h", label: "7 days" },
              ]}
              error={at("/replay")}
            />
          )}
        </>
      )}
    </FormModal>
  );
}
