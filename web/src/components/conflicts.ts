/** The fields that differ among three versions of a resource. `version` follows from the others. */
export function conflictsOf(
  base: Record<string, unknown>,
  theirs: Record<string, unknown>,
  mine: Record<string, unknown>,
) {
  const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);
  return Object.keys({ ...base, ...theirs, ...mine })
    .filter((field) => field !== "version" && !(same(base[field], theirs[field]) && same(base[field], mine[field])))
    .filter((field) => field in mine)
    .map((field) => ({
      field,
      base: base[field],
      theirs: theirs[field],
      mine: mine[field],
      both: !same(base[field], theirs[field]) && !same(base[field], mine[field]) && !same(theirs[field], mine[field]),
      preferred: (same(base[field], mine[field]) ? "theirs" : "mine") as "theirs" | "mine",
    }));
}
