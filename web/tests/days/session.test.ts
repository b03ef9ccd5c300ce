import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { launch, Person } from "../lib/browser";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

test("a person signs in, sees who they are, and signs out for good", async () => {
  const root = await Person.signIn(browser, "root");
  const cookies = await root.context.cookies();
  await root.look("overview");
  await root.page.getByRole("button", { name: "Signed in as root" }).click();
  await root.page.getByRole("menuitem", { name: "Sign out" }).click();
  await root.page.getByRole("link", { name: "Sign in" }).waitFor();

  // The cookie of before is useless.
  await root.context.addCookies(cookies);
  const response = await root.context.request.get(`${inject("console")}api/v1/me`, {
    headers: { "X-Requested-With": "iam-console" },
  });
  expect(response.status()).toBe(401);
  await root.leave();
});

test("whoever signs in again in the popup loses nothing", async () => {
  const root = await Person.signIn(browser, "root", "#/tenants");
  await root.page.getByRole("button", { name: "Create a tenant" }).click();
  const create = root.page.getByRole("dialog", { name: "Create a tenant" });
  await create.getByRole("textbox", { name: "Name" }).fill("Nothing Lost Ltd");
  await create.getByRole("textbox", { name: "Id", exact: true }).fill("nothing-lost");
  await root.context.clearCookies();
  const popup = root.context.waitForEvent("page");
  await create.getByRole("button", { name: "Create" }).click();
  await root.page.getByRole("button", { name: "Sign in again" }).click();
  await (await popup).getByRole("link", { name: "root", exact: true }).click();
  // What was sent when the session had ended is sent again.
  await root.page.getByRole("heading", { name: "Nothing Lost Ltd" }).waitFor();
  await root.leave();
});
