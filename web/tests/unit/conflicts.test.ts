import { expect, test } from "vitest";
import { conflictsOf } from "../../src/components/conflicts";

test("a field that one side changed alone is theirs or mine; one that both changed is the person's choice", () => {
  const base = { name: "Acme", slug: "acme", attributes: { plan: "gold" }, version: 1 };
  const theirs = { ...base, slug: "acme-ltd", attributes: { plan: "silver" }, version: 2 };
  const mine = { ...base, name: "Acme Ltd", attributes: { plan: "bronze" } };
  expect(conflictsOf(base, theirs, mine).map(({ field, both, preferred }) => ({ field, both, preferred }))).toEqual([
    { field: "name", both: false, preferred: "mine" },
    { field: "slug", both: false, preferred: "theirs" },
    { field: "attributes", both: true, preferred: "mine" },
  ]);
});

test("the same change by both is no conflict to choose in", () => {
  const base = { name: "Acme" };
  const changed = { name: "Acme Ltd" };
  expect(conflictsOf(base, changed, changed).filter((c) => c.both)).toEqual([]);
});
