import { useQueryClient } from "@tanstack/react-query";
import { useCallback } from "react";

/**
 * Reads again what shows any of these paths of the API, and all below them, however it was read: `$api.useQuery`, `useResource`
 * and `usePages` have the path in their key. Resolves when what is on the screen is read.
 */
export function useChanged(): (...paths: string[]) => Promise<void> {
  const client = useQueryClient();
  return useCallback(
    (...paths) =>
      client.invalidateQueries({
        predicate: ({ queryKey }) =>
          queryKey.some(
            (part) => typeof part === "string" && paths.some((p) => part === p || part.startsWith(`${p}/`)),
          ),
      }),
    [client],
  );
}

type Pages<T> = { pages: { items: T[] | null; next?: string }[]; pageParams: unknown[] };

/** Changes lists that are read page by page, in place: reading 50 pages again because of one row is no option. */
export function usePagesCache<T>(path: string) {
  const client = useQueryClient();
  return {
    /** Replaces the rows that match; with undefined, removes them. */
    replace(matches: (row: T) => boolean, row: T | undefined): void {
      client.setQueriesData<Pages<T>>({ queryKey: ["pages", path] }, (data) =>
        data
          ? {
              ...data,
              pages: data.pages.map((page) => ({
                ...page,
                items: (page.items ?? []).flatMap((r) => (matches(r) ? (row === undefined ? [] : [row]) : [r])),
              })),
            }
          : data,
      );
    },
    /** Begins again with the first page. */
    reset: (): Promise<void> => client.resetQueries({ queryKey: ["pages", path] }),
  };
}
