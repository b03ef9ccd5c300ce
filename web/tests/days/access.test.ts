import type { Browser } from "playwright-core";
import { afterAll, beforeAll, test } from "vitest";
import { launch, Person } from "../lib/browser";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

test("root finds who holds a role in acme, and by which path", async () => {
  const root = await Person.signIn(browser, "root", "#/access/search");
  const { page } = root;
  await page
    .getByRole("combobox", { name: "Tenant" })
    .or(page.getByRole("textbox", { name: "Tenant" }))
    .first()
    .click();
  await page.getByRole("option", { name: "Acme Corp" }).click();
  await page
    .getByRole("textbox", { name: "Role" })
    .or(page.getByRole("combobox", { name: "Role" }))
    .first()
    .fill("viewer");
  await page.getByRole("option", { name: "viewer" }).first().click();
  await page.getByRole("table").getByText("alice").first().waitFor();
  await root.look("access-search");

  await page.getByRole("tab", { name: "Matrix" }).click();
  await page.getByText("document:write").first().waitFor();
  await root.look("access-matrix");

  await page.getByRole("tab", { name: "Role graph" }).click();
  await page.locator(".react-flow__node").filter({ hasText: "viewer" }).waitFor();
  await root.look("access-graph");

  await page.getByRole("tab", { name: "Unused" }).click();
  await root.look("access-unused");
  await page.getByRole("tab", { name: "Changes" }).click();
  await root.look("access-changes");
  await root.leave();
});
