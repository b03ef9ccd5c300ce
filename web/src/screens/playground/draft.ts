// A person's drafts in this browser: changed files by the revision that they change. They survive a reload and the end of a
// session. Tokens are no part of them.
import type { Changes, PolicyFile } from "./contract";

export interface Drafts {
  /** The base that was edited last. */
  last?: string;
  changes: Record<string, Changes>;
}

export type Owner = { issuer?: string; subject?: string };

const most = 5;
const keyOf = (o: Owner) => `iam-console-draft ${o.issuer ?? ""} ${o.subject ?? ""}`;

export function loadDrafts(owner: Owner): Drafts {
  try {
    const stored = JSON.parse(localStorage.getItem(keyOf(owner)) ?? "") as Drafts;
    if (typeof stored.changes === "object" && stored.changes !== null) return stored;
  } catch {
    // None, or of another release.
  }
  return { changes: {} };
}

/** Stores the changes of a base; without any, removes them. Returns false where the browser's storage is full. */
export function saveDraft(owner: Owner, base: string, changes: Changes): boolean {
  const drafts = loadDrafts(owner);
  delete drafts.changes[base];
  if (Object.keys(changes).length > 0) drafts.changes[base] = changes;
  const kept = Object.entries(drafts.changes).slice(-most);
  const next: Drafts = { last: kept.at(-1)?.[0], changes: Object.fromEntries(kept) };
  try {
    localStorage.setItem(keyOf(owner), JSON.stringify(next));
    return true;
  } catch {
    return false;
  }
}

export type Mark = "changed" | "new" | "removed" | undefined;

export interface DraftFile {
  path: string;
  kind: PolicyFile["kind"];
  text: string;
  mark: Mark;
}

/** The kind of a file by its path, as the service has it. */
export function kindOf(path: string): PolicyFile["kind"] | undefined {
  const base = path.slice(path.lastIndexOf("/") + 1);
  if (path === ".manifest") return "manifest";
  if (base.endsWith("_test.rego")) return "test";
  if (base.endsWith(".rego")) return "rego";
  if (/^cases\/[^/]+\.ya?ml$/.test(path)) return "cases";
  if (/^schemas\/.+\.json$/.test(path)) return "schema";
  if (/^data\.(json|ya?ml)$/.test(base)) return "data";
  return undefined;
}

/** The files of a draft, by path. */
export function filesOf(base: PolicyFile[], changes: Changes): DraftFile[] {
  const files = base.map((f): DraftFile => {
    const change = changes[f.path];
    if (change === undefined) return { ...f, mark: undefined };
    return change === null ? { ...f, mark: "removed" } : { ...f, text: change, mark: "changed" };
  });
  const known = new Set(base.map((f) => f.path));
  for (const [path, text] of Object.entries(changes)) {
    if (!known.has(path) && text !== null) files.push({ path, kind: kindOf(path) ?? "data", text, mark: "new" });
  }
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** The changes with another text of a file: one that is as in the base is no change. */
export function withText(base: PolicyFile[], changes: Changes, path: string, text: string | null): Changes {
  const next = { ...changes };
  const original = base.find((f) => f.path === path);
  if (text === original?.text || (text === null && !original)) delete next[path];
  else next[path] = text;
  return next;
}

/** A file of cases with another one. */
export const withCase = (file: string | undefined, yaml: string): string =>
  !file?.trim() ? `cases:\n${yaml}` : `${file.replace(/\n*$/, "\n")}${yaml}`;
