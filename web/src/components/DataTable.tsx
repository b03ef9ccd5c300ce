import { Box, Button, Center, Group, Loader, Table, Text, UnstyledButton } from "@mantine/core";
import type { InfiniteData, UseInfiniteQueryResult } from "@tanstack/react-query";
import { useVirtualizer } from "@tanstack/react-virtual";
import { memo, type ReactNode, useCallback, useEffect, useMemo, useRef } from "react";
import { Failure, Loading } from "./states";

export interface Column<T> {
  header: ReactNode;
  /** Of the column, for React; unique. */
  key: string;
  cell: (row: T) => ReactNode;
  width?: number | string;
  align?: "left" | "right" | "center";
}

/**
 * A table that renders the visible rows alone, so that 10,000 rows are as fast as ten. Rows have one height. With onRow, a
 * row's first cell is a button, which keyboards reach.
 */
export function DataTable<T>({
  label,
  columns,
  rows,
  rowKey,
  rowHeight = 41,
  maxHeight = "70vh",
  onRow,
  onEnd,
  footer,
}: {
  label: string;
  columns: Column<T>[];
  rows: T[];
  rowKey: (row: T) => string;
  rowHeight?: number;
  maxHeight?: number | string;
  onRow?: (row: T) => void;
  /** Called when the last row becomes visible. */
  onEnd?: () => void;
  footer?: ReactNode;
}) {
  const scroll = useRef<HTMLElement>(null);
  // A new function would make the virtualizer measure all rows again, on each frame of scrolling.
  const key = useRef(rowKey);
  key.current = rowKey;
  const getItemKey = useCallback((i: number) => key.current(rows[i]!), [rows]);
  const opened = useRef(onRow);
  opened.current = onRow;
  const open = useCallback((row: unknown) => opened.current?.(row as T), []);
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroll.current,
    estimateSize: () => rowHeight,
    overscan: 6,
    getItemKey,
  });
  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? -1;
  useEffect(() => {
    if (last >= 0 && last >= rows.length - 1) onEnd?.();
  }, [last, rows.length, onEnd]);
  const before = items[0]?.start ?? 0;
  const after = virtual.getTotalSize() - (items.at(-1)?.end ?? 0);
  return (
    <Box>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: keyboards scroll it */}
      <section ref={scroll} style={{ maxHeight, overflow: "auto" }} tabIndex={0} aria-label={label}>
        <Table stickyHeader highlightOnHover={!!onRow} aria-rowcount={rows.length + 1} aria-label={label}>
          <Table.Thead>
            <Table.Tr>
              {columns.map((c) => (
                <Table.Th key={c.key} w={c.width} ta={c.align}>
                  {c.header}
                </Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {before > 0 && <tr aria-hidden style={{ height: before }} />}
            {items.map((item) => (
              <Row
                key={item.key}
                row={rows[item.index]!}
                index={item.index}
                columns={columns as Column<unknown>[]}
                height={rowHeight}
                open={onRow ? open : undefined}
              />
            ))}
            {after > 0 && <tr aria-hidden style={{ height: after }} />}
          </Table.Tbody>
        </Table>
      </section>
      {footer}
    </Box>
  );
}

/** A row, which is rendered again only where it changes: scrolling renders the new rows alone. */
const Row = memo(function Row({
  row,
  index,
  columns,
  height,
  open,
}: {
  row: unknown;
  index: number;
  columns: Column<unknown>[];
  height: number;
  open: ((row: unknown) => void) | undefined;
}) {
  return (
    <Table.Tr
      aria-rowindex={index + 2}
      style={{ height, cursor: open ? "pointer" : undefined }}
      onClick={open ? () => open(row) : undefined}
    >
      {columns.map((c, i) => (
        <Table.Td key={c.key} ta={c.align}>
          {i === 0 && open ? (
            <UnstyledButton
              fz="sm"
              style={{ verticalAlign: "middle" }}
              fw={500}
              c="var(--mantine-color-anchor)"
              onClick={(e) => {
                e.stopPropagation();
                open(row);
              }}
            >
              {c.cell(row)}
            </UnstyledButton>
          ) : (
            c.cell(row)
          )}
        </Table.Td>
      ))}
    </Table.Tr>
  );
});

/** A DataTable over pages of the API: further pages are read as the person scrolls. */
export function PagedTable<T>({
  query,
  empty,
  ...table
}: {
  query: UseInfiniteQueryResult<InfiniteData<{ items: T[] | null; next?: string }>>;
  empty: ReactNode;
} & Omit<Parameters<typeof DataTable<T>>[0], "rows" | "onEnd" | "footer">) {
  const rows = useMemo(() => (query.data?.pages ?? []).flatMap((p) => p.items ?? []), [query.data]);
  if (query.isPending) return <Loading />;
  if (!query.data) return <Failure error={query.error} retry={() => void query.refetch()} />;
  if (rows.length === 0) return empty;
  return (
    <DataTable
      {...table}
      rows={rows}
      onEnd={
        query.hasNextPage && !query.isFetchingNextPage && !query.isError ? () => void query.fetchNextPage() : undefined
      }
      footer={
        <Group justify="space-between" mt="xs">
          <Text size="sm" c="dimmed" role="status">
            {rows.length.toLocaleString()}
            {query.hasNextPage ? " read, there are more" : rows.length === 1 ? " entry" : " entries"}
          </Text>
          {query.isError && <Failure error={query.error} retry={() => void query.fetchNextPage()} />}
          {query.isFetchingNextPage ? (
            <Center>
              <Loader size="xs" />
            </Center>
          ) : (
            query.hasNextPage && (
              <Button size="xs" variant="default" onClick={() => void query.fetchNextPage()}>
                More
              </Button>
            )
          )}
        </Group>
      }
    />
  );
}
