import { useInfiniteQuery } from "@tanstack/react-query";
import type { MaybeOptionalInit } from "openapi-fetch";
import type { PathsWithMethod } from "openapi-typescript-helpers";
import { api } from "./client";
import type { paths } from "./schema";

type GetPath = PathsWithMethod<paths, "get">;
type Page<P extends GetPath> = paths[P]["get"] extends {
  responses: { 200: { content: { "application/json": { items: (infer T)[] | null; next?: string } } } };
}
  ? paths[P]["get"]["responses"][200]["content"]["application/json"] & { items: T[] | null; next?: string }
  : never;

/** Reads a list of the API page by page, 200 entries each, for PagedTable. Invalidate by `["pages", path]`. */
export function usePages<P extends GetPath>(
  path: P,
  init: MaybeOptionalInit<paths[P], "get">,
  options: { enabled?: boolean; limit?: number; refetchInterval?: number | false } = {},
) {
  const { limit = 200, ...rest } = options;
  return useInfiniteQuery({
    queryKey: ["pages", path, init, limit],
    initialPageParam: "",
    queryFn: async ({ pageParam, signal }) => {
      const given = init as { params?: { query?: object } };
      const { data } = await api.GET(path, {
        ...given,
        signal,
        params: {
          ...given.params,
          query: { ...given.params?.query, limit, ...(pageParam ? { after: pageParam } : {}) },
        },
        // biome-ignore lint/suspicious/noExplicitAny: the library's type of init cannot be inferred for a generic path
      } as any);
      return data as Page<P>;
    },
    getNextPageParam: (page) => (page as { next?: string }).next || undefined,
    ...rest,
  });
}
