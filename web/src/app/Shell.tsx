import {
  ActionIcon,
  AppShell,
  Avatar,
  Box,
  Burger,
  Button,
  Group,
  Kbd,
  Menu,
  NavLink,
  ScrollArea,
  Text,
  Tooltip,
  UnstyledButton,
  useComputedColorScheme,
  useMantineColorScheme,
} from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { spotlight } from "@mantine/spotlight";
import { IconLogout, IconMoon, IconSearch, IconSun } from "@tabler/icons-react";
import { type ReactNode, useEffect, useRef } from "react";
import { Link, useLocation } from "wouter";
import { Time } from "../components/Time";
import { signOut, useSessionState } from "../session/session";
import { useCan } from "./me";
import { Palette } from "./Palette";
import { ScopeSelect } from "./ScopeSelect";
import { useScope } from "./scope";
import { sections } from "./screens";

/** The sections that the person sees: those with an action of theirs, on the platform or in the tenant that they look at. */
export function useSections() {
  const { tenant } = useScope();
  const can = useCan(tenant);
  return sections.filter((s) => s.needs.length === 0 || s.needs.some(can));
}

/** The frame of all screens: navigation, command palette, who is signed in. */
export function Shell({ children }: { children: ReactNode }) {
  const [opened, menu] = useDisclosure();
  const [location] = useLocation();
  const visible = useSections();
  const main = useRef<HTMLElement>(null);
  const first = useRef(true);
  // A new screen is where reading goes on: it gets the focus, as a new page would.
  // biome-ignore lint/correctness/useExhaustiveDependencies: on each change of the screen
  useEffect(() => {
    menu.close();
    if (first.current) first.current = false;
    else main.current?.focus();
  }, [location.split("/").slice(0, 3).join("/")]);
  const active = visible
    .filter((s) => (s.to === "/" ? location === "/" : location === s.to || location.startsWith(`${s.to}/`)))
    .sort((a, b) => b.to.length - a.to.length)[0];
  return (
    <AppShell
      header={{ height: 52 }}
      navbar={{ width: 200, breakpoint: "sm", collapsed: { mobile: !opened } }}
      padding="md"
    >
      <AppShell.Header>
        {/* biome-ignore lint/a11y/useValidAnchor: a link within the page, whose fragment is taken by the routes */}
        <a
          className="skip"
          href="#main"
          onClick={(e) => {
            e.preventDefault();
            main.current?.focus();
          }}
        >
          Skip to content
        </a>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap">
          <Group gap="xs" wrap="nowrap">
            <Burger
              opened={opened}
              onClick={menu.toggle}
              hiddenFrom="sm"
              size="sm"
              aria-label="Navigation"
              aria-expanded={opened}
            />
            <Text fw={700} component={Link} href="/" c="inherit" td="none">
              iam-service
            </Text>
          </Group>
          <Group gap="xs" wrap="nowrap">
            <ScopeSelect />
            <Button
              variant="default"
              size="xs"
              leftSection={<IconSearch size={14} />}
              rightSection={
                <Box visibleFrom="sm" component="span">
                  <Kbd size="xs">Ctrl K</Kbd>
                </Box>
              }
              onClick={spotlight.open}
            >
              Find
            </Button>
            <ColorScheme />
            <Person />
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="xs" component="nav" aria-label="Sections">
        <AppShell.Section grow component={ScrollArea}>
          {visible.map((s) => (
            <NavLink
              key={s.to}
              component={Link}
              href={s.to}
              label={s.label}
              leftSection={<s.icon size={18} />}
              active={s === active}
              aria-current={s === active ? "page" : undefined}
              variant="light"
            />
          ))}
        </AppShell.Section>
      </AppShell.Navbar>
      <AppShell.Main ref={main} tabIndex={-1} id="main" style={{ outline: "none" }}>
        {children}
      </AppShell.Main>
      <Palette />
    </AppShell>
  );
}

function ColorScheme() {
  const { setColorScheme } = useMantineColorScheme();
  const dark = useComputedColorScheme("light") === "dark";
  const label = dark ? "Light colours" : "Dark colours";
  return (
    <Tooltip label={label}>
      <ActionIcon
        variant="default"
        size="md"
        aria-label={label}
        onClick={() => setColorScheme(dark ? "light" : "dark")}
      >
        {dark ? <IconSun size={16} /> : <IconMoon size={16} />}
      </ActionIcon>
    </Tooltip>
  );
}

function Person() {
  const { session } = useSessionState();
  const name = session?.subject ?? "";
  return (
    <Menu position="bottom-end" width={280}>
      <Menu.Target>
        <UnstyledButton aria-label={`Signed in as ${name}`}>
          <Avatar size="sm" radius="xl" color="indigo" variant="filled" aria-hidden>
            {name.slice(0, 2).toUpperCase()}
          </Avatar>
        </UnstyledButton>
      </Menu.Target>
      <Menu.Dropdown>
        <Box px="sm" py="xs">
          <Text fw={600} size="sm" style={{ overflowWrap: "anywhere" }}>
            {name}
          </Text>
          <Text size="xs" c="dimmed" style={{ overflowWrap: "anywhere" }}>
            {session?.issuer}
          </Text>
          <Text size="xs" c="dimmed">
            Signed in until <Time at={session?.ends_at} />
          </Text>
        </Box>
        <Menu.Divider />
        <Menu.Item leftSection={<IconLogout size={16} />} onClick={() => void signOut()}>
          Sign out
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
