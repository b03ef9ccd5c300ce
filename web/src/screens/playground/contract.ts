// The playground's part of the API.
import { api, type Schemas } from "../../api/client";

export interface PolicyFile {
  path: string;
  kind: "rego" | "test" | "cases" | "data" | "schema" | "manifest";
  text: string;
}

export interface RevisionFiles {
  revision: string;
  digest: string;
  files: PolicyFile[];
}

export interface DraftError {
  file?: string;
  row?: number;
  col?: number;
  end_row?: number;
  end_col?: number;
  code: string;
  message: string;
}

export interface Evaluated {
  base: string;
  revision?: string;
  compiled: boolean;
  errors: DraftError[];
  warnings: string[];
  decision?: {
    allow: boolean;
    status: number;
    code?: string;
    tenant?: string;
    headers?: Record<string, string>;
    reasons: { code: string; title?: string }[];
  };
  explanation?: Schemas["ExplanationBody"];
  facts: { path: string; found: boolean; value?: unknown; masked?: string[] }[];
  input?: unknown;
  masked?: string[];
  case?: { yaml?: string; reason?: string };
  cases?: { file?: string; name: string; passed: boolean; why?: string; got?: string }[];
  took_microseconds: number;
}

/** Texts by path, which replace the base's files or are added to them; null removes one. */
export type Changes = Record<string, string | null>;

export interface Draft {
  base: string;
  files: Changes;
}

export type Question = Omit<Schemas["ExplainBody"], "$schema" | "revision">;

// biome-ignore lint/suspicious/noExplicitAny: these routes are younger than the generated types of some checkouts
const untyped = api as any;

export async function readFiles(revision: string, signal?: AbortSignal): Promise<RevisionFiles> {
  const { data } = await untyped.GET("/v1/policy/revisions/{revision}/files", {
    params: { path: { revision } },
    signal,
  });
  return data;
}

/** Compiles a draft and decides a question by it. Nothing is stored. */
export async function evaluate(
  body: Draft & { question?: Question; cases: boolean },
  signal: AbortSignal,
): Promise<Evaluated> {
  const { data } = await untyped.POST("/v1/policy/evaluate", { body, signal });
  return data;
}

/** The bundle of a draft. */
export async function buildDraft(body: Draft & { name: string }): Promise<Blob> {
  const { data } = await untyped.POST("/v1/policy/drafts", { body, parseAs: "blob" });
  return data;
}
