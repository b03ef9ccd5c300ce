import { expect, test } from "vitest";
import { cyclesOf, graphOf, inheritedBy, inheritorsOf } from "../../src/screens/tenants/roles/graph";

const graph = graphOf([
  { name: "viewer", inherits: [] },
  { name: "editor", inherits: ["viewer"] },
  { name: "owner", inherits: ["editor", "billing"] },
  { name: "billing", inherits: null },
]);

test("a role cannot inherit itself, or a role that inherits it, and the reason names the way", () => {
  expect(Object.fromEntries(cyclesOf(graph, "viewer"))).toEqual({
    viewer: "a role does not inherit itself",
    editor: "would make a cycle: it inherits viewer",
    owner: "would make a cycle: it inherits viewer by editor",
  });
});

test("a role can inherit what does not lead back to it", () => {
  expect([...cyclesOf(graph, "owner").keys()]).toEqual(["owner"]);
  expect(cyclesOf(graph, "billing").has("viewer")).toBe(false);
  expect([...cyclesOf(graph, "new").keys()]).toEqual(["new"]);
});

test("what a role inherits, and who inherits it, goes through all levels", () => {
  expect([...inheritedBy(graph, "owner")].sort()).toEqual(["billing", "editor", "viewer"]);
  expect(inheritorsOf(graph, "viewer").get("owner")).toEqual(["owner", "editor", "viewer"]);
});

test("a cycle in the data ends the walk", () => {
  const broken = graphOf([
    { name: "a", inherits: ["b"] },
    { name: "b", inherits: ["a"] },
  ]);
  expect([...inheritedBy(broken, "a")]).toEqual(["b"]);
  expect([...inheritorsOf(broken, "a").keys()]).toEqual(["b"]);
});
