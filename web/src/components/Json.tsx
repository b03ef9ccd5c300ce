import { Code } from "@mantine/core";

/** A value of the API as JSON, which stays text. */
export function Json({ value, maxHeight = 400 }: { value: unknown; maxHeight?: number | string }) {
  return (
    <Code block tabIndex={0} mah={maxHeight} style={{ overflow: "auto" }}>
      {JSON.stringify(value, null, 2)}
    </Code>
  );
}
