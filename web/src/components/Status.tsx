import { Badge, type MantineColor } from "@mantine/core";

const colours: Record<string, MantineColor> = {
  active: "teal",
  approved: "teal",
  added: "teal",
  valid: "teal",
  invalid: "red",
  in_sync: "teal",
  pending: "yellow",
  suspended: "orange",
  blocked: "red",
  rejected: "red",
  failed: "red",
};

/** A status by its name; the colour only repeats it. */
export function Status({ value }: { value: string }) {
  const colour = colours[value] ?? "gray";
  return (
    <Badge variant="light" color={colour} c="var(--mantine-color-text)" tt="none" fw={600} miw="max-content">
      {value.replaceAll("_", " ")}
    </Badge>
  );
}
