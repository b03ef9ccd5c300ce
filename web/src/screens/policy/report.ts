// The report of a preview, which the OpenAPI document leaves open, and what the screens make of it.
export interface Who {
  issuer?: string;
  subject?: string;
  client_id?: string;
  tenant?: string;
  decision?: string;
}

export interface Group {
  kind: string;
  question?: string;
  before: string[] | null;
  after: string[] | null;
  headers?: string[] | null;
  count: number;
  sample: Who[] | null;
}

export interface Section {
  asked: number;
  counts: Record<string, number>;
  groups: Group[] | null;
  tenants?: { tenant: string; counts: Record<string, number> }[] | null;
  tenants_left_out?: number;
  groups_left_out?: number;
  slow?: number;
  facts_changed?: number;
  not_replayable?: number;
  lacking?: string[];
}

export interface Report {
  candidate: string;
  name?: string;
  against: string;
  questions: string[] | null;
  lacking?: string[];
  at: string;
  took: string;
  directory: Section;
  outsiders: Section;
  replayed?: Section;
}

/** What somebody notices: all kinds but reasons. */
const noticed = (kind: string) => kind !== "reasons";

/** Changes for each rule, most first: the rule that decides now, and where no rule does, the one that decided before. */
export function byRule(section: Section): { rule: string; count: number }[] {
  const counts = new Map<string, number>();
  for (const g of section.groups ?? []) {
    if (!noticed(g.kind)) continue;
    const before = new Set(g.before ?? []);
    const came = (g.after ?? []).filter((c) => !before.has(c));
    const went = (g.before ?? []).filter((c) => !(g.after ?? []).includes(c));
    const codes = came.length > 0 ? came : went.length > 0 ? went : (g.after ?? []);
    for (const code of codes.length > 0 ? codes : ["no rule"]) counts.set(code, (counts.get(code) ?? 0) + g.count);
  }
  return [...counts].map(([rule, count]) => ({ rule, count })).sort((a, b) => b.count - a.count);
}

/** Changes for each tenant, most first. */
export function byTenant(section: Section): { tenant: string; count: number }[] {
  return (section.tenants ?? [])
    .map((t) => ({
      tenant: t.tenant,
      count: Object.entries(t.counts).reduce((sum, [kind, n]) => sum + (noticed(kind) ? n : 0), 0),
    }))
    .filter((t) => t.count > 0)
    .sort((a, b) => b.count - a.count);
}

const key = "iam-console-previews";

/** Previews that this browser started: the service lists none. */
export function recentPreviews(): string[] {
  try {
    const ids: unknown = JSON.parse(localStorage.getItem(key) ?? "[]");
    return Array.isArray(ids) ? ids.filter((i) => typeof i === "string") : [];
  } catch {
    return [];
  }
}

export function rememberPreview(id: string): void {
  localStorage.setItem(key, JSON.stringify([id, ...recentPreviews().filter((i) => i !== id)].slice(0, 20)));
}

export function forgetPreview(id: string): void {
  localStorage.setItem(key, JSON.stringify(recentPreviews().filter((i) => i !== id)));
}
