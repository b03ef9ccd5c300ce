import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launch, Person } from "../lib/browser";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

const sections = async (p: Person) =>
  (await p.page.getByRole("navigation", { name: "Sections" }).getByRole("link").allTextContents()).map((t) => t.trim());

test("alice sees her tenants and roles, and nothing that she may not do", async () => {
  const alice = await Person.signIn(browser, "alice");
  await alice.page.getByText("You belong to 3 tenants.").waitFor();
  await alice.page.getByText("Your roles: editor").waitFor();
  await alice.look("member-overview");
  for (const absent of ["Users", "Access", "Clients", "Policy", "Playground", "Decisions", "Audit"])
    expect(await sections(alice)).not.toContain(absent);
  expect(await alice.page.getByRole("heading", { name: "Fleet" }).count()).toBe(0);
  expect(await alice.page.getByRole("heading", { name: "Recent changes" }).count()).toBe(0);

  // A link that somebody sent her shows nothing that she may not see, and offers nothing to change.
  await alice.open("#/access/search");
  await alice.page.getByText("You may not ask about access").waitFor();
  await alice.leave();
});

test("carol learns that she belongs to no tenant, and whom to ask", async () => {
  const carol = await Person.signIn(browser, "carol");
  await carol.page.getByText("You belong to no tenant").waitFor();
  await carol.page.getByText("Ask an administrator of the tenant that you need").waitFor();
  expect(await sections(carol)).toEqual(["Overview"]);
  await carol.look("nobody-overview");
  await carol.leave();
});

test("root sees the fleet, what changed, and denials by code", async () => {
  const root = await Person.signIn(browser, "root");
  await root.page.getByRole("heading", { name: "Fleet" }).waitFor();
  await root.page.getByRole("table", { name: "Replicas" }).getByText("fresh, confirmed").waitFor();
  await root.page.getByRole("heading", { name: "Recent changes" }).waitFor();
  await root.page.getByRole("heading", { name: "Denials" }).waitFor();
  await root.look("overview-platform");
  await root.leave();
});

test("tina sees her tenant", async () => {
  const tina = await Person.signIn(browser, "tina");
  await tina.page.getByRole("heading", { name: "Acme" }).first().waitFor();
  await tina.page.getByText(/^Members: \d+/).waitFor();
  await tina.page.getByRole("heading", { name: "Denials" }).waitFor();
  await tina.look("overview-tenant");
  await tina.leave();
});
