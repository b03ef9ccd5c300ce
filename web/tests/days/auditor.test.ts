// An auditor's day: alice was refused, and says only what the response said.
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { launch, Person } from "../lib/browser";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

/** A token of the development R-Auth. */
async function token(user: string, audience?: string): Promise<string> {
  const query = new URLSearchParams({ user, ...(audience ? { aud: audience } : {}) });
  return (await (await fetch(`${inject("rauth")}/dev/token?${query}`)).text()).trim();
}

/** The gateway's request for a user in a tenant. */
async function enrich(user: string, tenant: string): Promise<Response> {
  return fetch(`${inject("gateway")}/system/enrich-token`, {
    headers: { Authorization: `Bearer ${await token(user)}`, "X-Active-Tenant-ID": tenant },
  });
}

test("an auditor finds out why alice was refused, who changed what, and that the log is whole", async () => {
  // Somebody has changed her membership before.
  const admin = { Authorization: `Bearer ${await token("root", "iam-admin")}`, "Content-Type": "application/json" };
  const api = inject("console").replace(/console\/$/, "v1");
  const found = (await (await fetch(`${api}/users?subject=alice`, { headers: admin })).json()) as {
    items: { id: string; subject: string }[];
  };
  const alice = found.items.find((u) => u.subject === "alice")!.id;
  const changed = await fetch(`${api}/tenants/globex/members/${alice}`, {
    method: "PUT",
    headers: { ...admin, "If-Match": "*" },
    body: JSON.stringify({ roles: ["editor"] }),
  });
  expect(changed.status).toBe(200);

  const refused = await enrich("alice", "initech");
  expect(refused.status).toBe(403);
  const { instance } = (await refused.json()) as { instance: string };
  expect(instance).toContain("/console/#/decisions/");

  // She opens what alice's error page shows. Signing in returns to it.
  const audrey = await Person.signIn(browser, "audrey", instance.slice(instance.indexOf("#")));
  const { page } = audrey;
  await expect
    .poll(
      async () => {
        // The decision is stored within a second or two.
        const again = page.getByRole("button", { name: "Look again" });
        if (await again.isVisible()) await again.click();
        return page.getByText("alice in initech: Not a member of the requested tenant").isVisible();
      },
      { timeout: 20_000 },
    )
    .toBe(true);

  // The tree, by keyboard: from the rule that denied to the first condition that failed.
  const tree = page.getByRole("tree", { name: "Explanation" });
  await tree.getByRole("treeitem", { name: /not_a_member/ }).waitFor();
  await tree.getByRole("treeitem", { name: /A member of the active tenant.*nearest miss/ }).waitFor();
  const first = tree.getByRole("treeitem").first();
  await first.focus();
  await page.keyboard.press("ArrowLeft");
  expect(await first.getAttribute("aria-expanded")).toBe("false");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  expect(await page.locator("[role=treeitem]:focus").textContent()).toContain("not_a_member");
  await page.keyboard.press("End");
  expect(await page.locator("[role=treeitem]:focus").textContent()).toContain("Denials that did not match");
  await page.getByRole("table", { name: "Facts read" }).getByText("/alice").waitFor();
  await audrey.look("decision");

  // Her memberships: who changed them, and what.
  await page.getByRole("link", { name: "Audit trail of the memberships" }).click();
  await page.getByRole("button", { name: "member:update" }).click();
  const entry = page.getByRole("dialog", { name: "member:update" });
  await entry.getByText("root (user), by the API").waitFor();
  await entry.getByRole("row", { name: /roles.*removed: viewer.*added: editor|roles/ }).waitFor();
  expect(await entry.getByRole("table", { name: "Changes" }).textContent()).toMatch(/viewer.*editor/s);
  await audrey.look("audit-entry");
  await entry.getByRole("button", { name: "Close" }).click();

  await page.getByRole("button", { name: "Verify the chain" }).click();
  await page.getByText(/^Verified: \d+ entries/).waitFor();
  await audrey.look("audit");
  const saved = page.waitForEvent("download");
  await page.getByRole("button", { name: "Export" }).click();
  expect((await saved).suggestedFilename()).toMatch(/^audit-platform-.*\.jsonl$/);

  // Whom else does it hit? All denials, and those that come in now.
  await page.getByRole("link", { name: "Decisions" }).click();
  await page.getByRole("button", { name: /^not_a_member · \d+$/ }).click();
  await page.getByRole("table", { name: "Decisions" }).getByText("initech").first().waitFor();
  await audrey.look("decisions");
  await page.getByRole("button", { name: "Live" }).click();
  await page.getByText(/· 0 arrived/).waitFor();
  expect((await enrich("bob", "acme")).status).toBe(403);
  await page.getByText(/· [1-9]\d* arrived/).waitFor();
  await page.getByRole("row", { name: /new bob acme/ }).waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("Paused").waitFor();
  await audrey.leave();
});
