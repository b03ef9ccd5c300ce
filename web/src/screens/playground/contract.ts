// The playground's part of the API.
import { api, type Schemas } from "../../api/client";

export type PolicyFile = Schemas["PolicyFile"];
export type RevisionFiles = Schemas["FilesBody"];
export type DraftError = Schemas["DraftError"];
export type Evaluated = Schemas["EvaluatedBody"];

/** Texts by path, which replace the base's files or are added to them; null removes one. */
export type Changes = Record<string, string | null>;

export interface Draft {
  base: string;
  files: Changes;
}

export type Question = Omit<Schemas["ExplainBody"], "revision">;

export async function readFiles(revision: string, signal?: AbortSignal): Promise<RevisionFiles> {
  const { data } = await api.GET("/v1/policy/revisions/{revision}/files", { params: { path: { revision } }, signal });
  return data!;
}

/** Compiles a draft and decides a question by it. Nothing is stored. */
export async function evaluate(
  body: Draft & { question?: Question; cases: boolean },
  signal: AbortSignal,
): Promise<Evaluated> {
  const { data } = await api.POST("/v1/policy/evaluate", { body, signal });
  return data!;
}

/** The bundle of a draft. */
export async function buildDraft(body: Draft & { name: string }): Promise<Blob> {
  const { data } = await api.POST("/v1/policy/drafts", { body, parseAs: "blob" });
  return data as Blob;
}
