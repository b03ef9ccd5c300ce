// Roles inherit each other without cycles. The service rejects one; a chooser does not offer it.

export interface RoleNode {
  name: string;
  inherits: string[] | null;
}

export type RoleGraph = ReadonlyMap<string, readonly string[]>;

export const graphOf = (roles: readonly RoleNode[]): RoleGraph => new Map(roles.map((r) => [r.name, r.inherits ?? []]));

/** All roles that inherit `role`, directly or by others, each with the shortest chain from it to `role`. */
export function inheritorsOf(graph: RoleGraph, role: string): Map<string, string[]> {
  const parents = new Map<string, string[]>();
  for (const [name, inherits] of graph) {
    for (const i of inherits) {
      const known = parents.get(i);
      if (known) known.push(name);
      else parents.set(i, [name]);
    }
  }
  const chains = new Map<string, string[]>();
  let edge: string[][] = [[role]];
  while (edge.length > 0) {
    const next: string[][] = [];
    for (const chain of edge) {
      for (const parent of parents.get(chain[0]!) ?? []) {
        if (parent === role || chains.has(parent)) continue;
        const longer = [parent, ...chain];
        chains.set(parent, longer);
        next.push(longer);
      }
    }
    edge = next;
  }
  return chains;
}

/** All roles that `role` inherits, directly or by others, without itself. */
export function inheritedBy(graph: RoleGraph, role: string): Set<string> {
  const seen = new Set<string>();
  const open = [...(graph.get(role) ?? [])];
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    if (name === role || seen.has(name)) continue;
    seen.add(name);
    open.push(...(graph.get(name) ?? []));
  }
  return seen;
}

/** Why `role` cannot inherit each of these: it would make a cycle. Whatever is not in the map it can inherit. */
export function cyclesOf(graph: RoleGraph, role: string): Map<string, string> {
  const reasons = new Map([[role, "a role does not inherit itself"]]);
  for (const [name, chain] of inheritorsOf(graph, role)) {
    reasons.set(
      name,
      chain.length === 2
        ? `would make a cycle: it inherits ${role}`
        : `would make a cycle: it inherits ${role} by ${chain.slice(1, -1).join(", ")}`,
    );
  }
  return reasons;
}
