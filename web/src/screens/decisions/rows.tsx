import { Badge, Code, Group, Text } from "@mantine/core";
import { IconCheck, IconX } from "@tabler/icons-react";
import type { Schemas } from "../../api/client";
import type { Column } from "../../components/DataTable";
import { Time } from "../../components/Time";

export type Decision = Schemas["DecisionBody"];

export function Outcome({ allow }: { allow: boolean }) {
  return (
    <Badge
      variant="light"
      color={allow ? "teal" : "red"}
      c="var(--mantine-color-text)"
      tt="none"
      leftSection={allow ? <IconCheck size={12} /> : <IconX size={12} />}
    >
      {allow ? "allowed" : "denied"}
    </Badge>
  );
}

/** Who a decision is about, as far as the person may see it. */
export function Who({ of }: { of: Decision }) {
  if (of.subject && of.subject !== of.client_id) return <>{of.subject}</>;
  if (of.client_id) return <>program {of.client_id.length > 20 ? `${of.client_id.slice(0, 8)}…` : of.client_id}</>;
  return (
    <Text span size="sm" c="dimmed">
      not named
    </Text>
  );
}

export const short = (id: string) => (id.length > 12 ? `${id.slice(0, 8)}…` : id);

/** The columns of a list of decisions; `fresh` names those that have just arrived. */
export function columns(fresh?: ReadonlySet<string>): Column<Decision>[] {
  return [
    { key: "decision", header: "Decision", width: 120, cell: (d) => <code>{short(d.decision)}</code> },
    {
      key: "outcome",
      header: "Outcome",
      width: 150,
      cell: (d) => (
        <Group gap={4} wrap="nowrap">
          <Outcome allow={d.allow} />
          {fresh?.has(d.decision) && (
            <Badge variant="outline" color="indigo" c="var(--mantine-color-anchor)" tt="none" size="sm">
              new
            </Badge>
          )}
        </Group>
      ),
    },
    { key: "who", header: "Subject", cell: (d) => <Who of={d} /> },
    { key: "tenant", header: "Tenant", cell: (d) => d.tenant || "–" },
    {
      key: "codes",
      header: "Reasons",
      cell: (d) => (d.codes?.length ? <Code>{d.codes.join(", ")}</Code> : "–"),
    },
    { key: "revision", header: "Policy", cell: (d) => <code>{short(d.revision)}</code> },
    { key: "at", header: "Time", align: "right", cell: (d) => <Time at={d.at} /> },
  ];
}
