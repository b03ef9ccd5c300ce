import { Anchor, Breadcrumbs, Group, Stack, Text, Title } from "@mantine/core";
import { type ReactNode, useEffect } from "react";
import { Link } from "wouter";

/** A screen: its title (also of the window), where it is, and its actions. */
export function Page({
  title,
  description,
  path = [],
  actions,
  children,
}: {
  title: string;
  description?: ReactNode;
  path?: { label: string; to: string }[];
  actions?: ReactNode;
  children: ReactNode;
}) {
  useEffect(() => {
    document.title = `${title} · iam-service`;
  }, [title]);
  return (
    <Stack gap="md" component="section" aria-label={title}>
      {path.length > 0 && (
        <Breadcrumbs component="nav" aria-label="Breadcrumb">
          {path.map((p) => (
            <Anchor key={p.to} component={Link} href={p.to} size="sm">
              {p.label}
            </Anchor>
          ))}
          <Text size="sm" aria-current="page">
            {title}
          </Text>
        </Breadcrumbs>
      )}
      <Group justify="space-between" align="flex-start" wrap="wrap">
        <div>
          <Title order={1}>{title}</Title>
          {description && (
            <Text c="dimmed" size="sm" component="div">
              {description}
            </Text>
          )}
        </div>
        {actions && <Group gap="xs">{actions}</Group>}
      </Group>
      {children}
    </Stack>
  );
}
