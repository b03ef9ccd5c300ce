// biome-ignore-all lint/a11y: the ARIA grid pattern over visible cells alone, with the focus on the grid; a table would need every cell
import { Box, Button, Group, SegmentedControl, Stack, Text, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, useEffect, useMemo, useRef, useState } from "react";
import type { Schemas } from "../../api/client";
import { usePages } from "../../api/pages";
import { Empty, Failure, Loading } from "../../components/states";
import { useParam } from "../tenants/params";
import { Export } from "./parts";

type Cell = Schemas["MatrixCell"];
const height = 34;
const first = 220;
const width = 150;

/** Roles and their permissions, or members and their roles, as a grid. */
export function Matrix({ tenant }: { tenant: string }) {
  const [ofParam, setOf] = useParam("of");
  const [rowFilter, setRowFilter] = useParam("row");
  const [columnFilter, setColumnFilter] = useParam("column");
  const [rowText] = useDebouncedValue(rowFilter.toLowerCase(), 100);
  const [columnText] = useDebouncedValue(columnFilter.toLowerCase(), 100);
  const of = ofParam === "members" ? "members" : "roles";
  const query = usePages(
    "/v1/tenants/{tenant}/matrix",
    { params: { path: { tenant }, query: { of } } },
    { limit: 500 },
  );
  // All roles are read, since each can have a permission of its own; members are read as the person scrolls.
  useEffect(() => {
    if (of === "roles" && query.hasNextPage && !query.isFetching && !query.isError) void query.fetchNextPage();
  }, [of, query]);
  const all = useMemo(
    () =>
      (query.data?.pages.flatMap((p) => p.items ?? []) ?? []).map((r) => ({
        key: r.role ?? r.user ?? "",
        name: (r.role ?? r.subject ?? r.user ?? "") + (r.in_force ? "" : " (not in force)"),
        global: r.global ?? false,
        cells: new Map((r.cells ?? []).map((c) => [c.name, c])),
      })),
    [query.data],
  );
  const rows = useMemo(() => all.filter((r) => r.name.toLowerCase().includes(rowText)), [all, rowText]);
  const columns = useMemo(
    () =>
      [...new Set(all.flatMap((r) => [...r.cells.keys()]))].filter((c) => c.toLowerCase().includes(columnText)).sort(),
    [all, columnText],
  );
  const noun = of === "roles" ? { row: "Role", column: "Permission" } : { row: "Member", column: "Role" };
  return (
    <Stack>
      <Group align="flex-end" gap="xs">
        <SegmentedControl
          aria-label="Matrix of"
          data={[
            { value: "roles", label: "Roles × permissions" },
            { value: "members", label: "Members × roles" },
          ]}
          value={of}
          onChange={(v) => setOf(v === "roles" ? "" : v)}
        />
        <TextInput
          label={`${noun.row} has in its name`}
          value={rowFilter}
          onChange={(e) => setRowFilter(e.currentTarget.value)}
          w={190}
        />
        <TextInput
          label={`${noun.column} has in its name`}
          value={columnFilter}
          onChange={(e) => setColumnFilter(e.currentTarget.value)}
          w={190}
        />
        <Export path={`/v1/tenants/${encodeURIComponent(tenant)}/matrix?of=${of}`} name={`${tenant}-matrix-of-${of}`} />
      </Group>
      {query.isPending ? (
        <Loading rows={8} />
      ) : !query.data ? (
        <Failure error={query.error} retry={() => void query.refetch()} />
      ) : rows.length === 0 || columns.length === 0 ? (
        <Empty title={all.length === 0 ? "There is nothing to show yet" : "Nothing fits the filters"} />
      ) : (
        <>
          <Grid key={of} label={`${noun.row}s and their ${noun.column.toLowerCase()}s`} rows={rows} columns={columns} />
          <Group justify="space-between">
            <Text size="sm" c="dimmed" role="status">
              {rows.length.toLocaleString()} {noun.row.toLowerCase()}s, {columns.length.toLocaleString()}{" "}
              {noun.column.toLowerCase()}s{query.hasNextPage ? ", and there are more" : ""}. “direct”: the{" "}
              {of === "roles" ? "role grants the permission itself" : "role is assigned"}; “inherited”: by a role that
              it inherits.
            </Text>
            {query.hasNextPage && (
              <Button
                size="xs"
                variant="default"
                loading={query.isFetchingNextPage}
                onClick={() => void query.fetchNextPage()}
              >
                More
              </Button>
            )}
          </Group>
        </>
      )}
    </Stack>
  );
}

/** Renders the visible cells alone. Arrow keys move from cell to cell. */
function Grid({
  label,
  rows,
  columns,
}: {
  label: string;
  rows: { key: string; name: string; global: boolean; cells: Map<string, Cell> }[];
  columns: string[];
}) {
  const scroll = useRef<HTMLDivElement>(null);
  const [at, setAt] = useState({ row: 0, column: 0 });
  const vertical = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroll.current,
    estimateSize: () => height,
    overscan: 6,
    paddingStart: height,
    scrollPaddingStart: height,
  });
  const horizontal = useVirtualizer({
    horizontal: true,
    count: columns.length,
    getScrollElement: () => scroll.current,
    estimateSize: () => width,
    overscan: 2,
    paddingStart: first,
    scrollPaddingStart: first,
  });
  const move = (e: KeyboardEvent) => {
    const steps: Record<string, [number, number]> = {
      ArrowDown: [1, 0],
      ArrowUp: [-1, 0],
      ArrowRight: [0, 1],
      ArrowLeft: [0, -1],
      PageDown: [12, 0],
      PageUp: [-12, 0],
    };
    const step = steps[e.key];
    if (!step) return;
    e.preventDefault();
    const clamp = (n: number, max: number) => Math.max(0, Math.min(max - 1, n));
    const next = { row: clamp(at.row + step[0], rows.length), column: clamp(at.column + step[1], columns.length) };
    setAt(next);
    vertical.scrollToIndex(next.row);
    horizontal.scrollToIndex(next.column);
  };
  const border = "1px solid var(--mantine-color-default-border)";
  const head = {
    background: "var(--mantine-color-body)",
    borderBottom: border,
    borderRight: border,
    padding: "6px 8px",
  };
  const cut = { overflow: "hidden", textOverflow: "ellipsis", whiteSpace: "nowrap" } as const;
  const shownColumns = horizontal.getVirtualItems();
  const active = rows[at.row];
  const activeCell = active?.cells.get(columns[at.column] ?? "");
  return (
    <>
      <Box
        ref={scroll}
        role="grid"
        aria-label={label}
        aria-rowcount={rows.length + 1}
        aria-colcount={columns.length + 1}
        tabIndex={0}
        onKeyDown={move}
        style={{ maxHeight: "58vh", overflow: "auto", border, position: "relative", fontSize: 13 }}
      >
        <div style={{ width: horizontal.getTotalSize(), height: vertical.getTotalSize(), position: "relative" }}>
          <div
            role="row"
            aria-rowindex={1}
            style={{ position: "sticky", top: 0, zIndex: 3, height, width: horizontal.getTotalSize() }}
          >
            <div
              role="columnheader"
              aria-colindex={1}
              style={{ ...head, position: "sticky", left: 0, width: first, height, zIndex: 4, fontWeight: 600 }}
            >
              {label.split(" ")[0]}
            </div>
            {shownColumns.map((c) => (
              <div
                key={c.key}
                role="columnheader"
                aria-colindex={c.index + 2}
                title={columns[c.index]}
                style={{ ...head, ...cut, position: "absolute", top: 0, left: c.start, width, height, fontWeight: 600 }}
              >
                {columns[c.index]}
              </div>
            ))}
          </div>
          {vertical.getVirtualItems().map((r) => {
            const row = rows[r.index]!;
            return (
              <div
                key={r.key}
                role="row"
                aria-rowindex={r.index + 2}
                style={{ position: "absolute", top: r.start, left: 0, height, width: horizontal.getTotalSize() }}
              >
                <div
                  role="rowheader"
                  aria-colindex={1}
                  title={row.name}
                  style={{ ...head, ...cut, position: "sticky", left: 0, width: first, height, zIndex: 2 }}
                >
                  {row.name}
                  {row.global && " · global"}
                </div>
                {shownColumns.map((c) => {
                  const cell = row.cells.get(columns[c.index]!);
                  const here = r.index === at.row && c.index === at.column;
                  return (
                    <div
                      key={c.key}
                      role="gridcell"
                      aria-colindex={c.index + 2}
                      aria-selected={here}
                      onClick={() => setAt({ row: r.index, column: c.index })}
                      style={{
                        position: "absolute",
                        top: 0,
                        left: c.start,
                        width,
                        height,
                        padding: "6px 8px",
                        borderBottom: border,
                        borderRight: border,
                        outline: here ? "2px solid var(--mantine-color-anchor)" : undefined,
                        outlineOffset: -2,
                        background: cell ? "var(--mantine-color-default-hover)" : undefined,
                        fontStyle: cell?.kind === "inherited" ? "italic" : undefined,
                      }}
                    >
                      {cell?.kind ?? ""}
                    </div>
                  );
                })}
              </div>
            );
          })}
        </div>
      </Box>
      <Text size="sm" role="status">
        {active?.name}: {columns[at.column]} {activeCell ? `is held, ${activeCell.kind}` : "is not held"}
        {activeCell?.expires_at ? ` until ${new Date(activeCell.expires_at).toLocaleString()}` : ""}
      </Text>
    </>
  );
}
