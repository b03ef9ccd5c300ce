import { type UseQueryOptions, type UseQueryResult, useQuery } from "@tanstack/react-query";
import createFetchClient, { type MaybeOptionalInit } from "openapi-fetch";
import createQueryClient from "openapi-react-query";
import type { PathsWithMethod } from "openapi-typescript-helpers";
import { activityHeaders } from "../session/activity";
import { renewSession } from "../session/session";
import { base, csrfHeader } from "./base";
import { problemOf } from "./problem";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];

/** Sends a request; where the session has ended, lets the person sign in again and repeats it: nothing was done before. */
async function send(request: Request): Promise<Response> {
  for (const [name, value] of Object.entries(activityHeaders())) request.headers.set(name, value);
  for (;;) {
    const response = await fetch(request.clone());
    if (response.status === 401) {
      const error = await problemOf(response.clone());
      if (error.code === "session_ended") {
        await renewSession();
        continue;
      }
    }
    return response;
  }
}

/** The admin API. Each response that is not a success is thrown as a ProblemError. */
export const api = createFetchClient<paths>({ baseUrl: `${base}api`, fetch: send, headers: csrfHeader });

api.use({
  async onResponse({ response }) {
    if (!response.ok && response.status !== 304) throw await problemOf(response);
    return undefined;
  },
});

/** Queries over `api`, by method and path: `$api.useQuery("get", "/v1/tenants")`. */
export const $api = createQueryClient(api);

/** The URL of a path of the admin API, for downloads. Use download() for one. */
export const apiURL = (path: string) => `${base}api${path}`;

/** A resource with the tag that a conditional request names. */
export interface Versioned<T> {
  value: T;
  etag: string;
}

type GetPath = PathsWithMethod<paths, "get">;
type Body<P extends GetPath> = paths[P]["get"] extends {
  responses: { 200: { content: { "application/json": infer T } } };
}
  ? T
  : never;
type Init<P extends GetPath> = MaybeOptionalInit<paths[P], "get">;

/** Reads a resource with its ETag. */
export async function read<P extends GetPath>(path: P, init: Init<P>): Promise<Versioned<Body<P>>> {
  // biome-ignore lint/suspicious/noExplicitAny: the library's type of init cannot be inferred for a generic path
  const { data, response } = await api.GET(path, init as any);
  return { value: data as Body<P>, etag: response.headers.get("ETag") ?? "" };
}

/** A resource that the page edits: its value and its ETag. Invalidate by `["resource", path]`. */
export function useResource<P extends GetPath>(
  path: P,
  init: Init<P>,
  options?: Omit<UseQueryOptions<Versioned<Body<P>>>, "queryKey" | "queryFn">,
): UseQueryResult<Versioned<Body<P>>> {
  return useQuery({ queryKey: ["resource", path, init], queryFn: () => read(path, init), ...options });
}

/** Saves a response of the API as a file. */
export async function download(path: string, name: string, init?: RequestInit): Promise<void> {
  const response = await send(new Request(apiURL(path), { ...init, headers: { ...csrfHeader, ...init?.headers } }));
  if (!response.ok) throw await problemOf(response);
  save(await response.blob(), name);
}

/** Saves bytes or text as a file. */
export function save(content: Blob | string, name: string): void {
  const url = URL.createObjectURL(typeof content === "string" ? new Blob([content], { type: "text/plain" }) : content);
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  URL.revokeObjectURL(url);
}
