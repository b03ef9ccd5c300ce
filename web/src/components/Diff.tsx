// Before and after, by field: what was removed has a minus, what was added a plus, so that colour is never the only sign.
import { Box, Code, Stack, Table, Text } from "@mantine/core";

export interface Change {
  /** A JSON Pointer, or the name of a field. */
  field: string;
  before?: unknown;
  after?: unknown;
}

const show = (v: unknown) => (typeof v === "string" ? v : JSON.stringify(v, null, 1));
const scalars = (v: unknown): v is (string | number)[] =>
  Array.isArray(v) && v.every((x) => typeof x === "string" || typeof x === "number");

/** The name of a field by its pointer: /attributes/plan is attributes › plan. */
export function fieldName(pointer: string): string {
  if (!pointer.startsWith("/")) return pointer;
  return pointer
    .slice(1)
    .split("/")
    .map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"))
    .join(" › ");
}

function Line({ sign, value }: { sign: "-" | "+" | " "; value: unknown }) {
  const colour =
    sign === "-" ? "var(--mantine-color-red-light)" : sign === "+" ? "var(--mantine-color-teal-light)" : "";
  const word = sign === "-" ? "removed" : sign === "+" ? "added" : undefined;
  return (
    <Box
      component="code"
      display="block"
      px={6}
      fz="sm"
      ff="monospace"
      style={{ background: colour || undefined, whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}
    >
      <span aria-hidden>{sign === "-" ? "− " : sign === "+" ? "+ " : "  "}</span>
      {word && (
        <span style={{ position: "absolute", width: 1, height: 1, overflow: "hidden", clipPath: "inset(50%)" }}>
          {word}:{" "}
        </span>
      )}
      {show(value)}
    </Box>
  );
}

/** One value before and after; lists of words as sets. */
export function ValueDiff({ before, after }: { before?: unknown; after?: unknown }) {
  if (scalars(before ?? []) && scalars(after ?? []) && (Array.isArray(before) || Array.isArray(after))) {
    const was = (before ?? []) as (string | number)[];
    const is = (after ?? []) as (string | number)[];
    const both = was.filter((x) => is.includes(x));
    return (
      <Stack gap={1} pos="relative">
        {was
          .filter((x) => !is.includes(x))
          .map((x) => (
            <Line key={`-${x}`} sign="-" value={x} />
          ))}
        {is
          .filter((x) => !was.includes(x))
          .map((x) => (
            <Line key={`+${x}`} sign="+" value={x} />
          ))}
        {both.length > 0 && both.length <= 5 ? (
          both.map((x) => <Line key={x} sign=" " value={x} />)
        ) : both.length > 0 ? (
          <Text size="xs" c="dimmed">
            and {both.length} unchanged
          </Text>
        ) : null}
        {was.length + is.length === 0 && <Line sign=" " value={[]} />}
      </Stack>
    );
  }
  return (
    <Stack gap={1} pos="relative">
      {before !== undefined && <Line sign="-" value={before} />}
      {after !== undefined && <Line sign="+" value={after} />}
    </Stack>
  );
}

/** The changes of a resource, one row a field. */
export function Diff({ changes, label }: { changes: Change[]; label: string }) {
  if (changes.length === 0)
    return (
      <Text size="sm" c="dimmed">
        No field changed.
      </Text>
    );
  return (
    <Table aria-label={label} layout="fixed" verticalSpacing={4}>
      <Table.Thead>
        <Table.Tr>
          <Table.Th w="30%">Field</Table.Th>
          <Table.Th>Change</Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {changes.map((c) => (
          <Table.Tr key={c.field}>
            <Table.Th scope="row" fw={500} style={{ verticalAlign: "top", overflowWrap: "anywhere" }}>
              <Code>{fieldName(c.field) || "(all)"}</Code>
            </Table.Th>
            <Table.Td>
              <ValueDiff before={c.before} after={c.after} />
            </Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}
