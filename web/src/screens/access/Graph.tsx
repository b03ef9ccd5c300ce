import "@xyflow/react/dist/style.css";
import dagre from "@dagrejs/dagre";
import {
  Anchor,
  Badge,
  Box,
  Group,
  List,
  Paper,
  SegmentedControl,
  Select,
  Stack,
  Text,
  Title,
  useComputedColorScheme,
} from "@mantine/core";

import { Background, Controls, type Edge, MarkerType, type Node, Position, ReactFlow } from "@xyflow/react";
import { useMemo } from "react";
import { Link } from "wouter";
import type { Schemas } from "../../api/client";
import { usePages } from "../../api/pages";
import { useCan } from "../../app/me";
import { DataTable } from "../../components/DataTable";
import { Empty, Loaded } from "../../components/states";
import { useParam } from "../tenants/params";
import { graphOf, inheritedBy, inheritorsOf } from "../tenants/roles/graph";
import { useRoles } from "../tenants/roles/RolesSelect";
import { around } from "./graphmodel";

type Role = Schemas["RoleBody"];
const size = { width: 210, height: 56 };
/** Above this, a picture of all roles is neither readable nor fast: the person chooses one role first. */
const most = 150;

/** Which role inherits which, as a picture or as a list that says the same. */
export default function Graph({ tenant }: { tenant: string }) {
  const can = useCan(tenant);
  const roles = useRoles(tenant);
  const [focus, setFocus] = useParam("role");
  const [as, setAs] = useParam("as");
  const unused = usePages(
    "/v1/tenants/{tenant}/access/unused",
    { params: { path: { tenant }, query: { kind: "role", days: 90 } } },
    { enabled: can("access:list"), limit: 500 },
  );
  const stale = useMemo(
    () =>
      new Map(
        (unused.data?.pages.flatMap((p) => p.items ?? []) ?? []).flatMap((u) =>
          u.role ? [[u.role, u.last_used ?? ""] as [string, string]] : [],
        ),
      ),
    [unused.data],
  );
  return (
    <Loaded query={roles}>
      {(page) => {
        const all = page.items ?? [];
        const shown = around(all, focus);
        const list = as === "list" || (shown.length > most && !focus);
        return (
          <Stack>
            <Group align="flex-end" gap="xs">
              <Select
                label="Around the role"
                placeholder="All roles"
                data={all.map((r) => r.name)}
                value={focus || null}
                onChange={(r) => setFocus(r ?? "")}
                searchable
                clearable
                clearButtonProps={{ "aria-label": "All roles" }}
                limit={50}
                w={{ base: "100%", xs: 260 }}
              />
              <SegmentedControl
                aria-label="Show roles as"
                data={[
                  { value: "graph", label: "Graph" },
                  { value: "list", label: "List" },
                ]}
                value={list ? "list" : "graph"}
                onChange={(v) => setAs(v === "list" ? "list" : "")}
              />
            </Group>
            <Text size="sm" c="dimmed">
              {shown.length.toLocaleString()} of {all.length.toLocaleString()} roles. An arrow leads from a role to one
              that it inherits; the service rejects cycles.
              {shown.length > most && !focus && " Choose a role to see the graph around it."}
              {unused.isError && " Use is not recorded here, so it is not known which are unused."}
            </Text>
            {all.length === 0 ? (
              <Empty title="There are no roles yet" />
            ) : list ? (
              <RoleList roles={shown} stale={stale} onRole={setFocus} />
            ) : (
              <Picture roles={shown} stale={stale} focus={focus} onRole={setFocus} />
            )}
            {focus && <Detail tenant={tenant} roles={all} role={focus} stale={stale} onRole={setFocus} />}
          </Stack>
        );
      }}
    </Loaded>
  );
}

function useWords(stale: ReadonlyMap<string, string>) {
  return (r: Role) => {
    const last = stale.get(r.name);
    return [
      r.global ? "global" : "",
      `${(r.permissions ?? []).length} permissions`,
      last === undefined ? "" : last ? `unused since ${last}` : "unused, as far as is recorded",
    ]
      .filter(Boolean)
      .join(" · ");
  };
}

interface Shown {
  roles: Role[];
  stale: ReadonlyMap<string, string>;
  onRole: (role: string) => void;
}

function Picture({ roles, stale, focus, onRole }: Shown & { focus: string }) {
  const scheme = useComputedColorScheme("light");
  const words = useWords(stale);
  const places = useMemo(() => {
    const layout = new dagre.graphlib.Graph();
    layout.setGraph({ rankdir: "TB", nodesep: 24, ranksep: 48 });
    layout.setDefaultEdgeLabel(() => ({}));
    const known = new Set(roles.map((r) => r.name));
    for (const r of roles) layout.setNode(r.name, { ...size });
    for (const r of roles) for (const i of r.inherits ?? []) if (known.has(i)) layout.setEdge(r.name, i);
    dagre.layout(layout);
    return layout;
  }, [roles]);
  const nodes: Node[] = roles.map((r) => {
    const at = places.node(r.name);
    return {
      id: r.name,
      position: { x: at.x - size.width / 2, y: at.y - size.height / 2 },
      width: size.width,
      height: size.height,
      sourcePosition: Position.Bottom,
      targetPosition: Position.Top,
      ariaLabel: `Role ${r.name}, ${words(r)}${(r.inherits ?? []).length ? `, inherits ${r.inherits!.join(", ")}` : ""}`,
      style: {
        ...size,
        padding: 6,
        borderWidth: r.name === focus ? 3 : 1,
        borderStyle: stale.has(r.name) ? "dashed" : "solid",
        overflow: "hidden",
      },
      data: {
        label: (
          <Box title={r.name}>
            <Text size="sm" fw={600} truncate>
              {r.name}
            </Text>
            <Text size="xs" truncate>
              {words(r)}
            </Text>
          </Box>
        ),
      },
    };
  });
  const shown = new Set(roles.map((r) => r.name));
  const edges: Edge[] = roles.flatMap((r) =>
    (r.inherits ?? [])
      .filter((i) => shown.has(i))
      .map((i) => ({
        id: JSON.stringify([r.name, i]),
        source: r.name,
        target: i,
        markerEnd: { type: MarkerType.ArrowClosed },
        focusable: false,
        ariaLabel: `${r.name} inherits ${i}`,
      })),
  );
  return (
    <Paper withBorder h={460} aria-label="Graph of roles" component="section">
      <ReactFlow
        key={`${focus} ${roles.length}`}
        nodes={nodes}
        edges={edges}
        colorMode={scheme}
        fitView
        fitViewOptions={{ maxZoom: 1 }}
        minZoom={0.1}
        onlyRenderVisibleElements
        nodesDraggable={false}
        nodesConnectable={false}
        nodesFocusable
        edgesFocusable={false}
        deleteKeyCode={null}
        onNodeClick={(_, node) => onRole(node.id)}
        onSelectionChange={({ nodes: selected }) => {
          const id = selected[0]?.id;
          if (id && id !== focus) onRole(id);
        }}
        proOptions={{ hideAttribution: false }}
      >
        <Background />
        <Controls showInteractive={false} />
      </ReactFlow>
    </Paper>
  );
}

function RoleList({ roles, stale, onRole }: Shown) {
  const words = useWords(stale);
  return (
    <DataTable
      label="Roles"
      rows={roles}
      rowKey={(r) => r.name}
      onRow={(r) => onRole(r.name)}
      maxHeight={460}
      columns={[
        { key: "role", header: "Role", cell: (r) => r.name },
        { key: "inherits", header: "Inherits", cell: (r) => (r.inherits ?? []).join(", ") || "nothing" },
        { key: "about", header: "About", cell: (r) => words(r) },
      ]}
    />
  );
}

function Detail({ tenant, roles, role, stale, onRole }: Shown & { tenant: string; role: string }) {
  const body = roles.find((r) => r.name === role);
  const words = useWords(stale);
  const graph = graphOf(roles);
  if (!body) return <Empty title={`There is no role ${role} here`} />;
  const names = (list: string[]) =>
    list.length === 0 ? (
      "none"
    ) : (
      <Group gap={6} component="span">
        {list.map((n) => (
          <Anchor key={n} component="button" type="button" size="sm" onClick={() => onRole(n)}>
            {n}
          </Anchor>
        ))}
      </Group>
    );
  return (
    <Paper withBorder p="md" component="section" aria-label={`Role ${role}`}>
      <Group gap="xs" mb="xs">
        <Title order={2} style={{ overflowWrap: "anywhere" }}>
          {role}
        </Title>
        {body.global && (
          <Badge variant="light" c="var(--mantine-color-text)" tt="none">
            global
          </Badge>
        )}
      </Group>
      {body.description && <Text size="sm">{body.description}</Text>}
      <List size="sm" listStyleType="none" spacing={4}>
        <List.Item>{words(body)}</List.Item>
        <List.Item>Inherits: {names([...inheritedBy(graph, role)].sort())}</List.Item>
        <List.Item>Inherited by: {names([...inheritorsOf(graph, role).keys()].sort())}</List.Item>
        <List.Item>Its own permissions: {(body.permissions ?? []).join(", ") || "none"}</List.Item>
        <List.Item>
          <Link href={`/access/search?role=${encodeURIComponent(role)}`}>Who holds it</Link>
        </List.Item>
        <List.Item>
          <Link href={body.global ? "/roles" : `/tenants/${encodeURIComponent(tenant)}/roles`}>Edit it</Link>
        </List.Item>
      </List>
    </Paper>
  );
}
