// What a screen shows instead of data: while it loads, when there is none, when it failed.
import { Alert, Button, Center, Group, List, Skeleton, Stack, Text, ThemeIcon } from "@mantine/core";
import { IconAlertTriangle, IconInbox, IconLock } from "@tabler/icons-react";
import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { isProblem, ProblemError } from "../api/problem";

export function Loading({ rows = 4 }: { rows?: number }) {
  return (
    <Stack gap="xs" role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, i) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: the rows are alike
        <Skeleton key={i} height={28} />
      ))}
    </Stack>
  );
}

export function Empty({ title, children, action }: { title: string; children?: ReactNode; action?: ReactNode }) {
  return (
    <Center py="xl">
      <Stack align="center" gap="xs" maw={480}>
        <ThemeIcon variant="light" size="xl" radius="xl" color="gray" aria-hidden>
          <IconInbox />
        </ThemeIcon>
        <Text fw={600}>{title}</Text>
        {children && (
          <Text c="dimmed" ta="center" size="sm" component="div">
            {children}
          </Text>
        )}
        {action}
      </Stack>
    </Center>
  );
}

/** An error, in words that say which of the three it is: denied, not answerable now, broken. */
export function Failure({ error, retry }: { error: unknown; retry?: () => void }) {
  const problem = error instanceof ProblemError ? error.problem : undefined;
  const denied = isProblem(error, 401, 403, 404);
  const later = isProblem(error, 429, 503);
  const title =
    problem?.title ??
    (error instanceof TypeError ? "The service cannot be reached" : "Something went wrong on this page");
  return (
    <Alert
      color={denied ? "gray" : later ? "yellow" : "red"}
      variant="light"
      icon={denied ? <IconLock /> : <IconAlertTriangle />}
      title={title}
      role="alert"
    >
      <Stack gap="xs">
        <Text size="sm">{problem ? problem.detail : String(error)}</Text>
        {problem?.errors && problem.errors.length > 0 && (
          <List size="sm">
            {problem.errors.map((e) => (
              <List.Item key={`${e.pointer ?? e.parameter}${e.detail}`}>
                <code>{e.pointer ?? e.parameter}</code> {e.detail}
              </List.Item>
            ))}
          </List>
        )}
        <Group gap="xs">
          {retry && (later || !denied) && (
            <Button size="xs" variant="default" onClick={retry}>
              Try again
            </Button>
          )}
          {problem?.instance && (
            <Text size="xs" c="dimmed">
              {problem.code} · {problem.instance}
              {problem.trace_id ? ` · trace ${problem.trace_id}` : ""}
            </Text>
          )}
        </Group>
      </Stack>
    </Alert>
  );
}

/** Shows a query's data; until it is there, that it loads or why it failed. A failed refresh leaves the data on the screen. */
export function Loaded<T>({
  query,
  rows,
  children,
}: {
  query: UseQueryResult<T, unknown>;
  rows?: number;
  children: (data: T) => ReactNode;
}) {
  if (query.data !== undefined) {
    return (
      <>
        {query.isError && <Failure error={query.error} retry={() => void query.refetch()} />}
        {children(query.data)}
      </>
    );
  }
  if (query.isError) return <Failure error={query.error} retry={() => void query.refetch()} />;
  return <Loading rows={rows} />;
}
