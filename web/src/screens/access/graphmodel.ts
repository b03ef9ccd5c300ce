import { graphOf, inheritedBy, inheritorsOf, type RoleNode } from "../tenants/roles/graph";

/** The roles that are shown: all, or those that a role inherits and that inherit it. */
export function around<T extends RoleNode>(roles: readonly T[], focus: string): T[] {
  if (!focus) return [...roles];
  const graph = graphOf(roles);
  const names = new Set([focus, ...inheritedBy(graph, focus), ...inheritorsOf(graph, focus).keys()]);
  return roles.filter((r) => names.has(r.name));
}
