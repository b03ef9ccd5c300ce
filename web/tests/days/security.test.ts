// The day of a security engineer: change the policy, see what the change does, activate it, and go back.
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { launch, Person } from "../lib/browser";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

const rule = `package iam.claims

# METADATA
# title: Umbrella is closed to viewers
# description: A subject that is only a viewer is denied in umbrella.
# custom:
#   code: umbrella_closed
# scope: rule
denials contains _reason(rego.metadata.rule()) if {
	_tenant.id == "umbrella"
	_membership.status == "active"
	_membership.roles == ["viewer"]
}
`;

/** Puts a text into the file that the editor shows, as a paste does. */
async function write(page: Page, text: string): Promise<void> {
  const editor = page.locator(".cm-content");
  await editor.click();
  await page.keyboard.press("ControlOrMeta+a");
  // Pasted: what the browser inserts by itself in a text of several lines has styles, which the security policy forbids.
  await page.evaluate((t) => navigator.clipboard.writeText(t), text);
  await page.keyboard.press("ControlOrMeta+v");
}

async function enrich(user: string, tenant: string): Promise<number> {
  const token = await (await fetch(`${inject("rauth")}/dev/token?user=${user}`)).text();
  const response = await fetch(`${inject("gateway")}/system/enrich-token`, {
    headers: { Authorization: `Bearer ${token}`, "X-Active-Tenant-ID": tenant },
  });
  return response.status;
}

test("paula changes the policy in the playground, previews and activates it, and rolls back", async () => {
  const paula = await Person.signIn(browser, "paula", "#/policy/playground?user=alice&tenant=umbrella");
  const { page } = paula;
  const decision = page.getByRole("status", { name: "Decision of the draft" });

  // What is active allows alice in umbrella.
  await decision.getByText("Allowed, 200").waitFor();
  await page.getByRole("row", { name: /X-User-Roles/ }).waitFor();
  await paula.look("playground");

  // A rule with an error, which is shown at its line.
  await page.getByRole("button", { name: "Add a file" }).click();
  await page.getByRole("textbox", { name: "Path" }).last().fill("iam/claims/umbrella_closed.rego");
  await page.getByRole("dialog").getByRole("button", { name: "Add", exact: true }).click();
  await write(page, rule.replace("_tenant.id ==", "_tenant.id = = "));
  await page.getByRole("button", { name: /umbrella_closed\.rego:10/ }).waitFor();
  await page.locator(".cm-lint-marker-error").first().waitFor();
  await paula.look("playground-error");

  // Corrected, it denies alice, and the explanation names the rule.
  await write(page, rule);
  await decision.getByText("Denied, 403, umbrella_closed").waitFor();
  await page.getByText("Active policy: Allowed").waitFor();
  await page.getByText("The draft changes this.").waitFor();
  await page.getByRole("treeitem", { name: /Umbrella is closed to viewers/ }).waitFor();
  await page.getByRole("tab", { name: /Facts/ }).click();
  await page.getByText("users/", { exact: false }).first().waitFor();

  // The decision becomes an acceptance case, which passes.
  await page.getByRole("button", { name: "Save as acceptance case" }).click();
  await page.getByRole("button", { name: "Add the case" }).click();
  await page.getByRole("tab", { name: /Cases \d+ passed/ }).click();
  await page
    .getByText(/alice is denied/)
    .first()
    .waitFor();
  await paula.look("playground-case");

  // The draft survives a reload.
  await page.reload();
  await page.getByText("2 files are changed").waitFor();
  await decision.getByText("Denied, 403, umbrella_closed").waitFor();

  // The draft becomes a revision; its preview shows who would lose what.
  await page.getByRole("button", { name: "Save as revision" }).click();
  await page.getByRole("textbox", { name: "Name" }).fill("umbrella-closed");
  await page.getByRole("button", { name: "Save", exact: true }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Preview" }).click();
  await page.getByRole("button", { name: "Start the preview" }).click();
  await page.getByRole("button", { name: "Activate with this preview" }).waitFor();
  const lost = page.getByRole("button", { name: /^Lost: [1-9]/ });
  await lost.click();
  await page.getByRole("table", { name: "By tenant" }).getByText("umbrella").waitFor();
  await paula.look("preview");
  await page.getByRole("button", { name: "alice in umbrella" }).first().click();
  await page.getByText("Denied, 403, umbrella_closed").waitFor();
  await page.getByText("Allowed, 200").waitFor();
  await paula.look("preview-person");
  await page.getByRole("button", { name: "Close", exact: true }).click();

  // Activated with that preview and a reason: the gateway sees it.
  expect(await enrich("alice", "umbrella")).toBe(200);
  await page.getByRole("button", { name: "Activate with this preview" }).click();
  await page.getByRole("textbox", { name: "Reason" }).fill("umbrella asked for it");
  await page.getByRole("button", { name: "Activate", exact: true }).click();
  await page.getByText("This revision is active now.").waitFor();
  await expect.poll(() => enrich("alice", "umbrella"), { timeout: 10_000 }).toBe(403);
  await page.getByRole("tab", { name: "Overview" }).click();
  await page.getByText("umbrella asked for it").waitFor();
  await paula.look("policy");

  // A draft says that its base is no longer active.
  await paula.open("#/policy/playground");
  await page.getByText("Another revision is active").waitFor();

  // Back in one click, with a reason.
  await paula.open("#/policy/overview");
  await page.getByRole("button", { name: "Roll back" }).click();
  await page.getByRole("textbox", { name: "Reason" }).fill("umbrella has thought again");
  await page.getByRole("dialog").getByRole("button", { name: "Roll back" }).click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByText("umbrella has thought again").waitFor();
  await expect.poll(() => enrich("alice", "umbrella"), { timeout: 10_000 }).toBe(200);
  await page.getByRole("tab", { name: "Activations" }).click();
  await page.getByRole("cell", { name: "rolled back" }).waitFor();
  await paula.look("policy-activations");

  // What the revision changes, file by file; and as a shadow.
  await page.getByRole("tab", { name: "Revisions" }).click();
  await page.getByRole("button", { name: "Actions of umbrella-closed" }).click();
  await page.getByRole("menuitem", { name: "Compare with the active one" }).click();
  await page.locator(".cm-mergeView").waitFor();
  await paula.look("policy-compare");
  await page.getByRole("button", { name: "Actions of umbrella-closed" }).click();
  await page.getByRole("menuitem", { name: "Run as shadow" }).click();
  await page.getByRole("textbox", { name: "Percent of requests" }).fill("100");
  await page.getByRole("button", { name: "Start" }).click();
  await page.getByRole("button", { name: "Stop" }).waitFor();
  await expect
    .poll(
      async () => {
        await enrich("alice", "umbrella");
        return page.getByRole("table", { name: "Samples" }).getByText("alice").count();
      },
      { timeout: 20_000 },
    )
    .toBeGreaterThan(0);
  await paula.look("policy-shadow");
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByRole("button", { name: "Start" }).waitFor();
  await paula.leave();
});

test("a draft survives the end of the session, without the token", async () => {
  const paula = await Person.signIn(browser, "paula", "#/policy/playground?revision=active&user=alice&tenant=acme");
  const { page } = paula;
  await page.getByRole("status", { name: "Decision of the draft" }).waitFor();
  await page.getByRole("button", { name: "Add a file" }).click();
  await page.getByRole("textbox", { name: "Path" }).last().fill("iam/claims/mine.rego");
  await page.getByRole("dialog").getByRole("button", { name: "Add", exact: true }).click();
  await paula.context.clearCookies();
  await write(page, "package iam.claims\n\n_mine := 1\n");
  await page.getByText("Token", { exact: true }).click();
  await page.getByRole("textbox", { name: "Access token" }).fill("not-a-token");
  const popup = paula.context.waitForEvent("page");
  await page.getByRole("button", { name: "Sign in again" }).click();
  await (await popup).getByRole("link", { name: "paula", exact: true }).click();
  await page.getByText("1 file is changed").waitFor();
  await page.reload();
  await page.getByText("1 file is changed").waitFor();
  await page.getByRole("button", { name: "iam/claims/mine.rego new" }).click();
  await page.getByText("_mine").first().waitFor();
  const stored = await page.evaluate(() => JSON.stringify({ ...localStorage, url: location.href }));
  expect(stored).toContain("_mine");
  expect(stored).not.toContain("not-a-token");
  await paula.leave();
});
