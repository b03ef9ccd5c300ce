import { Alert, Button, Checkbox, Code, Group, Modal, Stack, Text } from "@mantine/core";
import { useEffect, useState } from "react";
import { Copy } from "../../components/Copy";
import { Time } from "../../components/Time";
import { type Client, hasSecret } from "./rules";

/**
 * What a creation or rotation has returned. A secret is shown here alone, and the dialog closes once the person says that it is
 * stored. `pending` is the 202 of a creation, whose secret comes by rotation.
 */
export function SecretDialog({ client, pending, onClose }: { client: Client; pending: boolean; onClose: () => void }) {
  const [stored, setStored] = useState(false);
  const secret = client.client_secret;
  const may = !secret || stored;
  useEffect(() => {
    if (!secret) return;
    const ask = (e: BeforeUnloadEvent) => e.preventDefault();
    addEventListener("beforeunload", ask);
    return () => removeEventListener("beforeunload", ask);
  }, [secret]);
  return (
    <Modal
      opened
      size="lg"
      title={secret ? "The secret, once" : pending ? "The client is being created" : "The client is created"}
      onClose={() => may && onClose()}
      closeOnEscape={may}
      closeOnClickOutside={false}
      withCloseButton={false}
    >
      <Stack>
        <Text size="sm" component="div">
          Client <Copy value={client.client_id} label="Copy the client_id" />
        </Text>
        {secret ? (
          <>
            <Alert color="yellow" title="It is shown this once">
              Neither this service nor the identity provider can show it again. Store it where the client reads it, and
              nowhere else.
            </Alert>
            <Text size="sm" component="div">
              Secret{" "}
              <Copy value={secret} label="Copy the secret">
                <Code data-testid="secret" style={{ overflowWrap: "anywhere" }}>
                  {secret}
                </Code>
              </Copy>
            </Text>
            {client.old_secret_until && (
              <Text size="sm">
                The previous secret works until <Time at={client.old_secret_until} />.
              </Text>
            )}
            <Checkbox label="I have stored it" checked={stored} onChange={(e) => setStored(e.currentTarget.checked)} />
          </>
        ) : hasSecret(client.token_endpoint_auth_method) ? (
          <Text size="sm">
            {pending
              ? "The identity provider has not confirmed it yet. What was written here stays, and is sent until it is confirmed. "
              : "No secret was returned. "}
            Its secret comes later: rotate it, once the client is in sync.
          </Text>
        ) : (
          <Text size="sm">
            {pending ? "The identity provider has not confirmed it yet. " : ""}It has no secret: it{" "}
            {client.token_endpoint_auth_method === "none" ? "is public, and uses PKCE" : "authenticates with its key"}.
          </Text>
        )}
        <Group justify="flex-end">
          <Button disabled={!may} onClick={onClose}>
            Close
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
