// A tree that the keyboard reaches as the WAI-ARIA authoring practices describe (the pattern "tree view"): arrows, Home, End, *,
// Enter, and the first letters of an item.
import { Box, Group } from "@mantine/core";
import { IconChevronDown, IconChevronRight } from "@tabler/icons-react";
import { type KeyboardEvent, type ReactNode, useMemo, useRef, useState } from "react";

export interface TreeItem {
  /** Unique in the tree. */
  id: string;
  label: ReactNode;
  /** Of the label, for first letters. */
  text: string;
  children?: TreeItem[];
}

interface Row {
  item: TreeItem;
  level: number;
  position: number;
  size: number;
  parent: string | undefined;
}

function rowsOf(items: TreeItem[], open: ReadonlySet<string>, level = 1, parent?: string): Row[] {
  return items.flatMap((item, i) => [
    { item, level, position: i + 1, size: items.length, parent },
    ...(item.children && open.has(item.id) ? rowsOf(item.children, open, level + 1, item.id) : []),
  ]);
}

/** Shows items with those open that `initiallyOpen` names. Mount it anew (by its key) for other items. */
export function Tree({ label, items, initiallyOpen }: { label: string; items: TreeItem[]; initiallyOpen: string[] }) {
  const [open, setOpen] = useState<ReadonlySet<string>>(() => new Set(initiallyOpen));
  const [active, setActive] = useState(items[0]?.id ?? "");
  const root = useRef<HTMLDivElement>(null);
  const typed = useRef({ text: "", at: 0 });
  const rows = useMemo(() => rowsOf(items, open), [items, open]);
  const at = Math.max(
    0,
    rows.findIndex((r) => r.item.id === active),
  );

  const focus = (row: Row | undefined) => {
    if (!row) return;
    setActive(row.item.id);
    const index = rows.indexOf(row);
    root.current?.querySelectorAll<HTMLElement>("[role=treeitem]")[index]?.focus();
  };
  const toggle = (ids: string[], to?: boolean) =>
    setOpen((was) => {
      const next = new Set(was);
      for (const id of ids) {
        if (to ?? !was.has(id)) next.add(id);
        else next.delete(id);
      }
      return next;
    });

  const onKeyDown = (e: KeyboardEvent) => {
    const row = rows[at];
    if (!row || e.ctrlKey || e.metaKey || e.altKey) return;
    const { item } = row;
    const expanded = open.has(item.id);
    const letter = e.key.length === 1 && e.key.trim() !== "" && e.key !== "*";
    if (e.key === "ArrowDown") focus(rows[at + 1]);
    else if (e.key === "ArrowUp") focus(rows[at - 1]);
    else if (e.key === "Home") focus(rows[0]);
    else if (e.key === "End") focus(rows.at(-1));
    else if (e.key === "ArrowRight") {
      if (item.children && !expanded) toggle([item.id], true);
      else if (item.children) focus(rows[at + 1]);
    } else if (e.key === "ArrowLeft") {
      if (item.children && expanded) toggle([item.id], false);
      else focus(rows.find((r) => r.item.id === row.parent));
    } else if (e.key === "Enter" || e.key === " ") {
      if (item.children) toggle([item.id]);
    } else if (e.key === "*") {
      toggle(
        rows.filter((r) => r.parent === row.parent && r.item.children).map((r) => r.item.id),
        true,
      );
    } else if (letter) {
      const now = Date.now();
      typed.current = { text: (now - typed.current.at < 600 ? typed.current.text : "") + e.key.toLowerCase(), at: now };
      const { text } = typed.current;
      const order = [...rows.slice(at + (text.length === 1 ? 1 : 0)), ...rows];
      focus(order.find((r) => r.item.text.toLowerCase().startsWith(text)));
    } else return;
    e.preventDefault();
  };

  return (
    <div ref={root} role="tree" aria-label={label} onKeyDown={onKeyDown}>
      {rows.map((row, i) => {
        const { item } = row;
        const expanded = item.children ? open.has(item.id) : undefined;
        return (
          <Box
            key={item.id}
            role="treeitem"
            aria-level={row.level}
            aria-posinset={row.position}
            aria-setsize={row.size}
            aria-expanded={expanded}
            aria-selected={i === at}
            tabIndex={i === at ? 0 : -1}
            onFocus={() => setActive(item.id)}
            onClick={() => {
              setActive(item.id);
              if (item.children) toggle([item.id]);
            }}
            py={3}
            pl={(row.level - 1) * 18}
            style={{ cursor: item.children ? "pointer" : "default" }}
          >
            <Group gap={6} wrap="nowrap" align="flex-start">
              <Box w={16} h={20} style={{ flex: "none", display: "flex", alignItems: "center" }} aria-hidden>
                {item.children && (expanded ? <IconChevronDown size={14} /> : <IconChevronRight size={14} />)}
              </Box>
              <Box style={{ minWidth: 0, overflowWrap: "anywhere" }}>{item.label}</Box>
            </Group>
          </Box>
        );
      })}
    </div>
  );
}
