// Why a request is allowed or denied: the rules that matched, and of the others the first condition that failed, with its causes.
import { Badge, Code, Group, Text } from "@mantine/core";
import { IconCircleCheck, IconCircleDashed, IconCircleX } from "@tabler/icons-react";
import type { ReactNode } from "react";
import type { Schemas } from "../api/client";
import { Tree, type TreeItem } from "./Tree";

type Rule = Schemas["Rule"];
type Condition = Schemas["Condition"];

const grants = (r: Rule) => r.set === "grants";

/** Conditions that held before the first one that failed, by their lines: a rule's begin below its head. */
const progress = (r: Rule) => (r.failed && r.failed.file === r.file ? r.failed.line - r.line : 0);

/** Levels of causes below a failed condition. */
function depth(c: Condition | undefined): number {
  if (!c) return 0;
  return 1 + Math.max(0, ...(c.because ?? []).flatMap((b) => (b.failed ?? []).map(depth)));
}

/**
 * The grants that did not match, the nearest miss first: the one that got furthest before a condition failed; among equals the
 * one with the shortest chain of causes that begins with a fact, then in the order of the policy.
 */
export function misses(rules: Rule[]): Rule[] {
  const order = new Map(rules.map((r, i) => [r, i]));
  return rules
    .filter((r) => grants(r) && !r.fired)
    .sort(
      (a, b) =>
        progress(b) - progress(a) ||
        Number((depth(a.failed) || 9) > 2) - Number((depth(b.failed) || 9) > 2) ||
        order.get(a)! - order.get(b)!,
    );
}

const show = (v: unknown) => JSON.stringify(v);

function valueText(v: Schemas["Value"]): string {
  if (!v.defined) return "undefined";
  if (v.hidden) return "hidden";
  return show(v.value) ?? "defined";
}

function conditionItem(id: string, c: Condition, holds: boolean): TreeItem {
  const causes = (c.because ?? []).filter((b) => (b.failed ?? []).length > 0);
  const children: TreeItem[] = causes.map((cause, i) => ({
    id: `${id}/${i}`,
    text: cause.name,
    label: (
      <Text size="sm" span>
        <Code>{cause.name}</Code> has no value, because
      </Text>
    ),
    children: (cause.failed ?? []).map((f, j) => conditionItem(`${id}/${i}/${j}`, f, false)),
  }));
  return {
    id,
    text: c.text,
    label: (
      <Group gap={6} align="flex-start" wrap="nowrap">
        <Sign of={holds ? "held" : "failed"} />
        <Text size="sm" span>
          {holds ? "holds" : "fails"}: <Code>{c.text}</Code>{" "}
          <Text span size="xs" c="dimmed">
            line {c.line}
          </Text>
          {(c.values ?? []).map((v) => (
            <Text key={v.name} span size="sm" display="block" c="dimmed">
              <Code>{v.name}</Code> is <Code>{valueText(v)}</Code>
            </Text>
          ))}
        </Text>
      </Group>
    ),
    ...(children.length > 0 ? { children } : {}),
  };
}

function Sign({ of }: { of: "held" | "failed" | "other" }) {
  const style = { flex: "none", marginTop: 2 };
  if (of === "held") return <IconCircleCheck size={16} style={style} color="var(--mantine-color-teal-7)" aria-hidden />;
  if (of === "failed") return <IconCircleX size={16} style={style} color="var(--mantine-color-red-7)" aria-hidden />;
  return <IconCircleDashed size={16} style={style} aria-hidden />;
}

function ruleItem(r: Rule, nearest: boolean): TreeItem {
  const id = `${r.file}:${r.line}`;
  const children: TreeItem[] = [];
  if (r.description)
    children.push({
      id: `${id}/description`,
      text: r.description,
      label: (
        <Text size="sm" c="dimmed">
          {r.description}
        </Text>
      ),
    });
  (r.held ?? []).forEach((c, i) => {
    children.push(conditionItem(`${id}/held/${i}`, c, true));
  });
  if (r.failed) children.push(conditionItem(`${id}/failed`, r.failed, false));
  if (r.error)
    children.push({
      id: `${id}/error`,
      text: r.error,
      label: <Text size="sm">It cannot be evaluated: {r.error}</Text>,
    });
  const denies = r.fired && !grants(r);
  return {
    id,
    text: r.title || r.code,
    label: (
      <Group gap={6} align="flex-start" wrap="nowrap">
        <Sign of={denies ? "failed" : r.fired ? "held" : "other"} />
        <Group gap={6} align="baseline">
          <Text size="sm" span fw={500}>
            {r.title || r.code}
          </Text>
          <Code>{r.code}</Code>
          {nearest && (
            <Badge variant="light" color="yellow" c="var(--mantine-color-text)" tt="none">
              nearest miss
            </Badge>
          )}
          <Text size="xs" c="dimmed" span>
            {r.file}:{r.line}
          </Text>
        </Group>
      </Group>
    ),
    ...(children.length > 0 ? { children } : {}),
  };
}

/** Ids of an item and all below it: what led to the result is open. */
const all = (item: TreeItem): string[] => [item.id, ...(item.children ?? []).flatMap(all)];

const group = (id: string, title: string, children: TreeItem[], note?: ReactNode): TreeItem => ({
  id,
  text: title,
  label: (
    <Text size="sm" fw={700} span>
      {title}{" "}
      <Text span size="xs" c="dimmed" fw={400}>
        {note ?? children.length}
      </Text>
    </Text>
  ),
  children,
});

/** The rules of an explanation as a tree, with what decided open. */
export function ExplanationTree({ allow, rules }: { allow: boolean; rules: Rule[] }) {
  const denying = rules.filter((r) => r.fired && !grants(r));
  const granting = rules.filter((r) => r.fired && grants(r));
  const missed = misses(rules);
  const idle = rules.filter((r) => !r.fired && !grants(r));
  const items: TreeItem[] = [];
  const open: string[] = [];
  const add = (id: string, title: string, list: Rule[], opened: (r: Rule, i: number) => boolean, note?: string) => {
    if (list.length === 0) return;
    const children = list.map((r, i) => ruleItem(r, id === "missed" && i === 0 && !allow && granting.length === 0));
    items.push(group(id, title, children, note));
    list.forEach((r, i) => {
      if (opened(r, i)) open.push(...all(children[i]!));
    });
    if (id !== "idle" && !(id === "missed" && allow)) open.push(id);
  };
  add("denying", "Denied by", denying, () => true);
  add("granting", allow ? "Granted by" : "Otherwise granted by", granting, () => allow);
  add("missed", "Not granted", missed, (_, i) => i === 0 && !allow && granting.length === 0);
  add("idle", "Denials that did not match", idle, () => false);
  if (items.length === 0) return <Text size="sm">No rule was evaluated.</Text>;
  return (
    <Tree
      key={`${allow} ${rules.map((r) => `${r.code}${r.line}${r.fired}`).join()}`}
      label="Explanation"
      items={items}
      initiallyOpen={open}
    />
  );
}
