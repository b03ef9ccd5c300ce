// Horizontal bars for some figures: a table whose rows have a bar, so that everyone reads the same numbers.
import { Anchor, Box, Table, Text, Title } from "@mantine/core";
import { useId } from "react";
import { count } from "./words";

export interface Bar {
  label: string;
  value: number;
  /** "color.shade" of the theme. */
  colour?: string;
  onClick?: () => void;
}

export function Bars({ title, rows, note }: { title: string; rows: Bar[]; note?: string }) {
  const id = useId();
  const most = Math.max(1, ...rows.map((r) => r.value));
  return (
    <section aria-labelledby={id}>
      <Title order={3} id={id} mb={4}>
        {title}
      </Title>
      {note && (
        <Text size="xs" c="dimmed">
          {note}
        </Text>
      )}
      {rows.length === 0 ? (
        <Text size="sm" c="dimmed">
          None.
        </Text>
      ) : (
        <Table aria-labelledby={id} withRowBorders={false} verticalSpacing={3}>
          <Table.Tbody>
            {rows.map((r) => (
              <Table.Tr key={r.label}>
                <Table.Th scope="row" w="40%" fw={400}>
                  {r.onClick ? (
                    <Anchor component="button" type="button" size="sm" ta="left" onClick={r.onClick}>
                      {r.label}
                    </Anchor>
                  ) : (
                    <Text size="sm">{r.label}</Text>
                  )}
                </Table.Th>
                <Table.Td>
                  <Box
                    aria-hidden
                    h={14}
                    bg={r.colour ?? "indigo.8"}
                    style={{ width: `${Math.max(1, (r.value / most) * 100)}%`, borderRadius: 2 }}
                  />
                </Table.Td>
                <Table.Td w={80} ta="right">
                  {count(r.value)}
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
    </section>
  );
}
