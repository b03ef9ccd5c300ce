// What the policy screens say in words: kinds of changes, who did something, and why an action is not possible.
import { Alert, Anchor, Code, Text } from "@mantine/core";
import { IconInfoCircle } from "@tabler/icons-react";
import { Link } from "wouter";
import type { Schemas } from "../../api/client";
import { isProblem } from "../../api/problem";
import { Failure } from "../../components/states";

/** Kinds of differences between two policies, the most severe first. */
export const kinds = [
  { kind: "breaks", label: "Breaks", colour: "red.8", text: "the new policy fails, or its decision is not valid" },
  { kind: "gains", label: "Gained", colour: "orange.8", text: "allowed, and was denied" },
  { kind: "loses", label: "Lost", colour: "grape.8", text: "denied, and was allowed" },
  { kind: "headers", label: "Other headers", colour: "blue.8", text: "allowed with other headers" },
  { kind: "status", label: "Other status", colour: "cyan.9", text: "denied with another status" },
  { kind: "mends", label: "Fixed", colour: "teal.8", text: "decided, and failed before" },
  { kind: "reasons", label: "Other reasons", colour: "gray.7", text: "only the reasons differ: callers do not notice" },
] as const;

export const kindLabel = (kind: string) => kinds.find((k) => k.kind === kind)?.label ?? kind;

/** The codes of rules, or what their absence says. */
export const codesText = (codes: string[] | null | undefined) => (codes?.length ? codes.join(", ") : "no rule");

export const count = (n: number | undefined) => (n ?? 0).toLocaleString();

/** Who did something: "user <id>" of the API, as a link to the user. */
export function Actor({ by }: { by: string | undefined }) {
  if (!by) return <Text span>–</Text>;
  const user = /^user[: ]+([0-9a-f-]{36})$/.exec(by)?.[1];
  return user ? (
    <Anchor component={Link} href={`/users/${user}`} size="sm" title={by}>
      User {user.slice(0, 8)}
    </Anchor>
  ) : (
    <Text span size="sm">
      {by}
    </Text>
  );
}

export function Revision({ id, name }: { id: string | undefined; name?: string }) {
  if (!id) return <Text span>none</Text>;
  return (
    <Text span size="sm">
      <Code>{id}</Code>
      {name ? ` ${name}` : ""}
    </Text>
  );
}

const reasons: Record<string, string> = {
  policy_not_managed:
    "The service follows its policy source by itself (POLICY_ACTIVATION is auto): whatever the source delivers becomes active. To preview and activate here, the operator sets POLICY_ACTIVATION to managed.",
  policy_local:
    "This replica's policy is its own: a folder, or the one that is part of the program. To have shared revisions, the operator configures a bundle.",
  policy_in_force: "This revision is active already. Choose another.",
  policy_superseded: "This revision was active before and has been replaced. It returns by a rollback.",
  policy_never_in_force: "This revision was never active: activate it instead.",
  policy_bundle_deleted: "The bundle of this revision is no longer stored. Upload it again.",
  no_policy_before: "There is no earlier activation to roll back to.",
  policy_not_prepared:
    "Not all replicas have prepared this revision yet. Wait some seconds and try again; if it stays, the list below says why.",
  policy_refused: "The service rejects this policy. The detail names file and line.",
};

/** A failure of an action on the policy, with what its code asks for. */
export function PolicyFailure({ error, retry }: { error: unknown; retry?: () => void }) {
  const words = isProblem(error) ? reasons[error.code] : undefined;
  return (
    <>
      <Failure error={error} retry={retry} />
      {words && (
        <Text size="sm" mt="xs">
          {words}
        </Text>
      )}
    </>
  );
}

/** Wraps an action so that its failure has the words of this screen. */
export async function withWords<T>(run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    const words = isProblem(error) ? reasons[error.code] : undefined;
    if (words && isProblem(error)) error.problem.detail = `${error.problem.detail ?? ""} ${words}`.trim();
    throw error;
  }
}

export function NotManaged({ policy }: { policy: Schemas["PolicyBody"] }) {
  if (policy.activation === "managed") return null;
  return (
    <Alert color="blue" variant="light" icon={<IconInfoCircle />} title="The policy follows its source">
      {reasons.policy_not_managed}
    </Alert>
  );
}
