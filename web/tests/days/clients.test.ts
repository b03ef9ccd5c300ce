// A platform administrator's day with clients.
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { launch, Person } from "../lib/browser";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

/** Whether R-Auth issues a token for a client's secret. */
async function works(id: string, secret: string): Promise<boolean> {
  const response = await fetch(`${inject("rauth")}/token`, {
    method: "POST",
    headers: { Authorization: `Basic ${btoa(`${id}:${secret}`)}`, "Content-Type": "application/x-www-form-urlencoded" },
    body: new URLSearchParams({ grant_type: "client_credentials", audience: "iam-gateway" }),
  });
  return response.ok;
}

test("a client is created, rotated, blocked and deleted, and what changed behind our back is seen", async () => {
  const root = await Person.signIn(browser, "root", "#/clients");
  const { page } = root;

  // The form says why an option is off.
  await page.getByRole("button", { name: "Create client" }).click();
  const form = page.getByRole("dialog", { name: "Create client" });
  await form.getByRole("radio", { name: "None: a public client" }).check();
  const credentials = form.getByRole("checkbox", { name: /Client credentials/ });
  expect(await credentials.isDisabled()).toBe(true);
  await form.getByText("A public client has no credentials (RFC 6749, section 4.4).").waitFor();
  await root.look("client-form");
  await form.getByRole("radio", { name: "Secret, in the Authorization header" }).check();
  await credentials.check();
  await form.getByRole("checkbox", { name: /Authorization code/ }).uncheck();
  await form.getByRole("combobox", { name: "Tenant" }).click();
  await page.getByRole("option", { name: "Acme Corp" }).click();

  // Nothing typed is lost by a refusal, which stands at its field.
  await form.getByRole("button", { name: "Create", exact: true }).click();
  await expect
    .poll(() => form.getByRole("textbox", { name: "Name" }).getAttribute("aria-invalid"), { timeout: 10_000 })
    .toBe("true");
  await form.getByRole("textbox", { name: "Name" }).fill("Nightly reports");
  await form.getByRole("button", { name: "Create", exact: true }).click();

  // The secret, once.
  const once = page.getByRole("dialog", { name: "The secret, once" });
  const first = (await once.getByTestId("secret").textContent())!;
  await page.keyboard.press("Escape");
  expect(await once.getByRole("button", { name: "Close" }).isDisabled()).toBe(true);
  await root.look("client-secret");
  await once.getByRole("checkbox", { name: "I have stored it" }).check();
  await once.getByRole("button", { name: "Close" }).click();
  await page.getByRole("heading", { name: "Nightly reports" }).waitFor();
  const id = page.url().split("/clients/")[1]!;
  expect(await works(id, first)).toBe(true);

  // Rotation: both secrets work while they overlap.
  await page.getByRole("button", { name: "Rotate secret" }).click();
  await page
    .getByRole("dialog", { name: /Rotate the secret/ })
    .getByRole("button", { name: "Rotate", exact: true })
    .click();
  const second = (await once.getByTestId("secret").textContent())!;
  expect(second).not.toBe(first);
  await once.getByRole("checkbox", { name: "I have stored it" }).check();
  await once.getByRole("button", { name: "Close" }).click();
  await page.getByText("Two secrets work now").waitFor();
  expect(await page.getByRole("timer").textContent()).toMatch(/^(1 d 0 h 0 min|23 h 5\d min)$/);
  expect([await works(id, first), await works(id, second)]).toEqual([true, true]);
  const steps = page.getByRole("region", { name: "Steps" });
  await steps.getByText("Rotation of the secret").waitFor();
  await steps.getByText("Confirmed by the identity provider").waitFor();
  await root.look("client");

  // A second rotation ends the overlap, where the person says so.
  await page.getByRole("button", { name: "Rotate secret" }).click();
  const rotate = page.getByRole("dialog", { name: /Rotate the secret/ });
  expect(await rotate.getByRole("button", { name: "Rotate", exact: true }).isDisabled()).toBe(true);
  await rotate.getByRole("checkbox", { name: /End the running overlap now/ }).check();
  await rotate.getByRole("button", { name: "Rotate", exact: true }).click();
  await once.getByRole("checkbox", { name: "I have stored it" }).check();
  await once.getByRole("button", { name: "Close" }).click();
  expect(await works(id, first)).toBe(false);

  // Somebody changes it in the identity provider.
  const there = `${inject("rauth")}/admin/clients/${id}`;
  const theirs = (await (await fetch(there)).json()) as Record<string, unknown>;
  const put = await fetch(there, {
    method: "PUT",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...theirs, client_name: "Not ours" }),
  });
  expect(put.ok).toBe(true);
  await page.getByRole("link", { name: "Clients" }).first().click();
  await page.getByRole("tab", { name: "Drift" }).click();
  const drift = page.getByRole("region", { name: `Client ${id}`, exact: true });
  await drift.getByRole("row", { name: "client_name Nightly reports Nightly reports Not ours" }).waitFor();
  await drift.getByText("iam-service wins").waitFor();
  await root.look("drift");

  // Blocked, and deleted.
  await drift.getByRole("link", { name: id }).click();
  await page.getByRole("button", { name: "More" }).click();
  await page.getByRole("menuitem", { name: "Block" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Block" }).click();
  await page.getByText("blocked", { exact: true }).waitFor();
  await page.getByRole("button", { name: "More" }).click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  const gone = page.getByRole("dialog", { name: "Delete Nightly reports?" });
  expect(await gone.getByRole("button", { name: "Delete" }).isDisabled()).toBe(true);
  await gone.getByRole("textbox", { name: "Type Nightly reports to confirm" }).fill("Nightly reports");
  await gone.getByRole("button", { name: "Delete" }).click();
  await page.getByRole("button", { name: "Create client" }).waitFor();
  await expect.poll(() => page.getByRole("button", { name: "Nightly reports" }).count()).toBe(0);
  await root.look("clients");
  await root.leave();
});
