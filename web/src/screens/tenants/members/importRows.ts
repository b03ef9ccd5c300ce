// Rows of an import: read from CSV or JSON, validated as far as the page can, and sent in pieces.
import type { Schemas } from "../../../api/client";
import { isProblem } from "../../../api/problem";
import { csvLine, inert, parseCSV } from "./csv";

export type MemberPost = Schemas["MemberPost"];
export type Outcome = Schemas["OutcomeBody"];

export interface Fault {
  /** As in the header of the CSV; empty: of the whole row. */
  field: string;
  detail: string;
}

export type Result = "added" | "replaced" | "unchanged" | "invalid" | "not sent";

export interface ImportRow {
  /** Where it stands in the text: line of the CSV, position in the JSON. */
  at: number;
  member: MemberPost;
  /** As the text has it, for a row that is corrected. */
  cells: Record<Column, string>;
  faults: Fault[];
  result?: Result;
}

export interface Parsed {
  rows: ImportRow[];
  /** What is wrong with the whole text. */
  error?: string;
}

export const columns = ["issuer", "subject", "roles", "expires_at", "attributes"] as const;
export type Column = (typeof columns)[number];
const fieldsOfJSON = new Set<string>([...columns, "role_terms", "status"]);

export interface Known {
  /** Names of the roles that the tenant sees; undefined: not known. */
  roles: ReadonlySet<string> | undefined;
  now: number;
}

const date = /^\d{4}-\d{2}-\d{2}$/;
const moment = /^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:\d{2})$/;

/** Reads a text that is CSV with a header, a JSON array, an object with `members` or `items`, or JSON lines. */
export function parseImport(text: string, known: Known): Parsed {
  const trimmed = text.trimStart();
  if (trimmed === "") return { rows: [] };
  const parsed = trimmed[0] === "[" || trimmed[0] === "{" ? parseJSON(text) : parseTable(text);
  const seen = new Map<string, ImportRow>();
  for (const row of parsed.rows) {
    row.faults.push(...faultsOf(row.member, known));
    if (row.member.subject) {
      const identity = JSON.stringify([row.member.issuer ?? "", row.member.subject]);
      const before = seen.get(identity);
      if (before) row.faults.push({ field: "subject", detail: `row ${before.at} has the same issuer and subject` });
      else seen.set(identity, row);
    }
  }
  return parsed;
}

function parseTable(text: string): Parsed {
  const { records, unclosed } = parseCSV(text);
  if (unclosed) return { rows: [], error: `Line ${unclosed} has a quote that is not closed.` };
  const header = (records[0]?.cells ?? []).map((c) => c.trim().toLowerCase());
  if (!header.includes("subject")) {
    return {
      rows: [],
      error: `The first line must name the columns: ${columns.join(",")}. Only subject is mandatory.`,
    };
  }
  const unknown = header.filter((h) => h !== "" && !(columns as readonly string[]).includes(h));
  if (unknown.length > 0) {
    return { rows: [], error: `Unknown columns: ${unknown.join(", ")}. Allowed are ${columns.join(", ")}.` };
  }
  const twice = header.find((h, i) => h !== "" && header.indexOf(h) !== i);
  if (twice) return { rows: [], error: `The column ${twice} is there twice.` };
  return {
    rows: records.slice(1).map(({ line, cells }) => {
      const cell = (name: Column) => cells[header.indexOf(name)]?.trim() ?? "";
      const faults: Fault[] = [];
      if (cells.length > header.length)
        faults.push({ field: "", detail: `has ${cells.length} cells, the header ${header.length}` });
      const member: MemberPost = { subject: cell("subject"), status: "active" };
      if (cell("issuer")) member.issuer = cell("issuer");
      member.roles = cell("roles")
        .split(/[\s;,|]+/)
        .filter((r) => r !== "");
      const ends = cell("expires_at");
      if (ends) {
        if (date.test(ends)) member.expires_at = `${ends}T00:00:00Z`;
        else if (moment.test(ends)) member.expires_at = new Date(ends.replace(" ", "T")).toISOString();
        else
          faults.push({
            field: "expires_at",
            detail: "must be a date as in 2030-12-31 (midnight UTC), or a time as in 2030-12-31T18:00:00Z",
          });
      }
      const attributes = cell("attributes");
      if (attributes) {
        const value = jsonOf(attributes);
        if (isObject(value)) member.attributes = value;
        else faults.push({ field: "attributes", detail: 'must be a JSON object, as in {"department":"sales"}' });
      }
      const raw = Object.fromEntries(columns.map((c) => [c, cell(c)])) as Record<Column, string>;
      return { at: line, member, cells: raw, faults };
    }),
  };
}

function parseJSON(text: string): Parsed {
  let values: unknown[];
  try {
    const doc: unknown = JSON.parse(text);
    const list = isObject(doc) ? (doc.members ?? doc.items ?? [doc]) : doc;
    if (!Array.isArray(list)) return { rows: [], error: "members must be an array." };
    values = list;
  } catch (failed) {
    const lines = text.split("\n").filter((l) => l.trim() !== "");
    const each = lines.map(jsonOf);
    if (lines.length < 2 || each.some((v) => v === undefined)) {
      return { rows: [], error: `This is no valid JSON: ${(failed as Error).message}` };
    }
    values = each;
  }
  return {
    rows: values.map((value, i) => {
      const faults: Fault[] = [];
      const member: MemberPost = { subject: "", status: "active" };
      if (!isObject(value)) faults.push({ field: "", detail: "must be an object" });
      else {
        for (const field of Object.keys(value)) {
          if (!fieldsOfJSON.has(field)) faults.push({ field, detail: "is not known" });
        }
        const text = (field: "issuer" | "subject" | "expires_at") => {
          const v = value[field];
          if (v === undefined || v === null) return;
          if (typeof v === "string") member[field] = v;
          else faults.push({ field, detail: "must be a string" });
        };
        text("issuer");
        text("subject");
        text("expires_at");
        if (member.expires_at && !moment.test(member.expires_at))
          faults.push({ field: "expires_at", detail: "must be a time as in 2030-12-31T18:00:00Z" });
        if (Array.isArray(value.roles) && value.roles.every((r) => typeof r === "string")) member.roles = value.roles;
        else if (value.roles != null) faults.push({ field: "roles", detail: "must be an array of strings" });
        if (isObject(value.attributes)) member.attributes = value.attributes;
        else if (value.attributes != null) faults.push({ field: "attributes", detail: "must be an object" });
        if (isObject(value.role_terms)) member.role_terms = value.role_terms as MemberPost["role_terms"];
        else if (value.role_terms != null) faults.push({ field: "role_terms", detail: "must be an object" });
        if (value.status === "active" || value.status === "suspended") member.status = value.status;
        else if (value.status != null) faults.push({ field: "status", detail: "must be active or suspended" });
      }
      return { at: i + 1, member, cells: cellsOf(member), faults };
    }),
  };
}

function cellsOf(m: MemberPost): Record<Column, string> {
  return {
    issuer: m.issuer ?? "",
    subject: m.subject,
    roles: (m.roles ?? []).join(" "),
    expires_at: m.expires_at ?? "",
    attributes: m.attributes && Object.keys(m.attributes).length > 0 ? JSON.stringify(m.attributes) : "",
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const bytes = (text: string) => new TextEncoder().encode(text).length;

function faultsOf(m: MemberPost, known: Known): Fault[] {
  const faults: Fault[] = [];
  if (!m.subject) faults.push({ field: "subject", detail: "is missing" });
  else if (bytes(m.subject) > 255) faults.push({ field: "subject", detail: "is longer than 255 bytes" });
  if (m.issuer && bytes(m.issuer) > 512) faults.push({ field: "issuer", detail: "is longer than 512 bytes" });
  const missing = known.roles ? (m.roles ?? []).filter((r) => !known.roles!.has(r)) : [];
  if (missing.length > 0) faults.push({ field: "roles", detail: `there is no role ${missing.join(", ")}` });
  if ((m.roles ?? []).length > 100) faults.push({ field: "roles", detail: "are more than 100" });
  if (m.expires_at) {
    const at = Date.parse(m.expires_at);
    if (Number.isNaN(at)) faults.push({ field: "expires_at", detail: "is no date" });
    // Of one who is a member already it can stay as it is: the service decides.
    else if (at <= known.now) faults.push({ field: "expires_at", detail: "is in the past" });
  }
  if (m.attributes && bytes(JSON.stringify(m.attributes)) > 4096)
    faults.push({ field: "attributes", detail: "are larger than 4 KB" });
  return faults;
}

// What one request may have: 1,000 rows and 4 MB, of which some room is left.
const maxRows = 1000;
const maxBytes = 3_500_000;

/** Cuts rows into pieces that one request can have. */
export function piecesOf(rows: readonly ImportRow[]): ImportRow[][] {
  const pieces: ImportRow[][] = [];
  let size = 0;
  for (const row of rows) {
    const own = bytes(JSON.stringify(row.member)) + 1;
    const last = pieces.at(-1);
    if (!last || last.length >= maxRows || size + own > maxBytes) {
      pieces.push([row]);
      size = own;
    } else {
      last.push(row);
      size += own;
    }
  }
  return pieces;
}

export interface Sending {
  rows: readonly ImportRow[];
  /** Sends one batch: all of it is stored, or none. */
  post: (members: MemberPost[]) => Promise<readonly Outcome[]>;
  /** Called with the rows that have a result now. */
  progress: (done: readonly ImportRow[]) => void;
  stopped: () => boolean;
  wait: (seconds: number) => Promise<void>;
}

/**
 * Sends rows piece by piece. The service stores a piece whole or not at all, and names each invalid row: these are marked, and
 * the rest of the piece is sent again without them. It waits where the service is busy. Another failure is thrown; rows that have
 * no result by then were not stored.
 */
export async function sendRows({ rows, post, progress, stopped, wait }: Sending): Promise<void> {
  for (let piece of piecesOf(rows)) {
    for (let tries = 0; piece.length > 0; ) {
      if (stopped()) return;
      try {
        const outcomes = await post(piece.map((r) => r.member));
        piece.forEach((row, i) => {
          row.result = outcomes[i]?.result ?? "unchanged";
        });
        progress(piece);
        break;
      } catch (error) {
        if (isProblem(error, 429, 503) && error.code !== "too_many_joins" && tries < 8) {
          await wait(error.retryAfter ?? Math.min(2 ** tries, 30));
          tries++;
          continue;
        }
        const invalid = isProblem(error, 422, 409) ? markInvalid(piece, error.problem.errors ?? []) : [];
        if (invalid.length === 0) throw error;
        progress(invalid);
        piece = piece.filter((r) => r.result !== "invalid");
      }
    }
  }
}

/** Marks the rows that errors of a batch name (`/members/17/roles/0`). */
function markInvalid(
  piece: readonly ImportRow[],
  errors: readonly { pointer?: string; detail: string }[],
): ImportRow[] {
  const invalid = new Set<ImportRow>();
  for (const { pointer, detail } of errors) {
    const [, index, field = "", ...rest] = /^\/members\/(\d+)(?:\/([^/]+))?(.*)$/.exec(pointer ?? "") ?? [];
    const row = index === undefined ? undefined : piece[Number(index)];
    if (!row) continue;
    row.result = "invalid";
    row.faults.push({ field, detail: rest[0] ? `${rest[0].slice(1)}: ${detail}` : detail });
    invalid.add(row);
  }
  return [...invalid];
}

/** Rows as CSV that can be corrected and imported. */
export const csvOf = (rows: readonly ImportRow[]): string =>
  [columns.join(","), ...rows.map((r) => csvLine(columns.map((c) => r.cells[c])))].join("\n");

/** What became of every row, for a spreadsheet. */
export function reportOf(rows: readonly ImportRow[]): string {
  const line = (r: ImportRow, fault?: Fault) =>
    csvLine(
      [
        String(r.at),
        ...columns.map((c) => r.cells[c]),
        r.result ?? (r.faults.length > 0 ? "invalid" : "not sent"),
        fault?.field ?? "",
        fault?.detail ?? "",
      ].map(inert),
    );
  return [
    ["row", ...columns, "result", "field", "detail"].join(","),
    ...rows.flatMap((r) => (r.faults.length > 0 ? r.faults.map((f) => line(r, f)) : [line(r)])),
  ].join("\r\n");
}
