// An administrator's day: root onboards a tenant, tina administers hers, and large tenants stay fast.
import type { Browser, Locator, Page } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { launch, Person } from "../lib/browser";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

/** Calls the admin API with the person's session, as the page does. */
async function call(person: Person, method: string, path: string, body?: unknown): Promise<unknown> {
  const response = await person.context.request.fetch(`${inject("console")}api${path}`, {
    method,
    headers: { "X-Requested-With": "iam-console", "Content-Type": "application/json" },
    ...(body === undefined ? {} : { data: JSON.stringify(body) }),
  });
  const text = await response.text();
  expect(response.ok(), `${method} ${path}: ${response.status()} ${text.slice(0, 500)}`).toBe(true);
  return text ? JSON.parse(text) : undefined;
}

const dialog = (page: Page, name: string): Locator => page.getByRole("dialog", { name });

/** Chooses options of a MultiSelect by typing them. */
async function choose(within: Locator, page: Page, label: string, ...names: string[]): Promise<void> {
  const field = within.getByRole("combobox", { name: label });
  for (const name of names) {
    await field.fill(name);
    await page
      .getByRole("option", { name: new RegExp(`^${name}\\b`) })
      .first()
      .click();
  }
  await page.keyboard.press("Escape").catch(() => {});
}

test("root onboards a tenant: roles, members from a file with invalid rows, and a role with an end", async () => {
  const root = await Person.signIn(browser, "root", "#/tenants");
  const { page } = root;
  await page.getByRole("button", { name: "Acme Corp" }).waitFor();
  await root.look("tenants");

  await page.getByRole("button", { name: "Create a tenant" }).click();
  const create = dialog(page, "Create a tenant");
  await create.getByRole("textbox", { name: "Name" }).fill("Wayne Enterprises");
  expect(await create.getByRole("textbox", { name: "Id" }).inputValue()).toBe("wayne-enterprises");
  await create.getByRole("textbox", { name: "Id" }).fill("acme");
  await create.getByRole("button", { name: "Create" }).click();
  await create.getByRole("alert").waitFor(); // an id that exists: the form stays with what was typed
  await create.getByRole("textbox", { name: "Id" }).fill("wayne");
  await root.look("tenant-create");
  await create.getByRole("button", { name: "Create" }).click();
  await page.getByRole("heading", { name: "Wayne Enterprises", level: 1 }).waitFor();
  await page.getByText("There are no members yet").waitFor();

  // Its roles, of which one inherits the other, and not the other way round.
  await page.getByRole("tab", { name: "Roles", exact: true }).click();
  for (const [name, permission, inherits] of [
    ["clerk", "invoice:read", undefined],
    ["manager", "invoice:approve", "clerk"],
  ] as const) {
    await page.getByRole("button", { name: "Create a role" }).click();
    const form = dialog(page, "Create a role");
    await form.getByRole("textbox", { name: "Name" }).fill(name);
    await form.getByRole("combobox", { name: "Permissions" }).fill(permission);
    await page.keyboard.press("Enter");
    if (inherits) await choose(form, page, "Inherits", inherits);
    if (name === "manager") await root.look("role-create");
    await form.getByRole("button", { name: "Create", exact: true }).click();
    await page.getByRole("table", { name: "Roles" }).getByRole("button", { name, exact: true }).waitFor();
  }
  await page.getByRole("table", { name: "Roles" }).getByRole("button", { name: "clerk", exact: true }).click();
  const clerk = dialog(page, "clerk");
  await clerk.getByRole("button", { name: "manager" }).waitFor();
  await root.look("role");
  await clerk.getByRole("button", { name: "Edit" }).click();
  const edit = dialog(page, "Edit clerk");
  await edit.getByRole("combobox", { name: "Inherits" }).fill("manager");
  const cycle = page.getByRole("option", { name: /^manager would make a cycle: it inherits clerk/ });
  await cycle.waitFor();
  expect(await cycle.getAttribute("data-combobox-disabled")).toBe("true");
  await page.keyboard.press("Escape");
  await edit.getByRole("button", { name: "Cancel" }).click();
  await clerk.getByRole("button", { name: "Close" }).click();

  // Members from a file: two rows are invalid, one because the page knows it, one because the service does.
  await page.getByRole("tab", { name: "Members" }).click();
  await page.getByRole("button", { name: "Import" }).click();
  await page
    .getByRole("textbox", { name: "CSV or JSON" })
    .fill(
      'subject,roles,attributes\nbruce,manager,\nlucius,clerk,"{""department"":""research""}"\nalfred,butler,\nselina,clerk,"{""alias"":""cat""}"\n',
    );
  await page.getByRole("button", { name: "Import 3 rows" }).waitFor();
  await page.getByText("roles there is no role butler").waitFor();
  await root.look("import-preview");
  await page.getByRole("button", { name: "Import 3 rows" }).click();
  await page.getByRole("status").filter({ hasText: "2 added" }).waitFor();
  await root.look("import-report");
  const download = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download the report" }).click();
  expect((await download).suggestedFilename()).toBe("import-wayne.csv");
  await page.getByRole("button", { name: "Correct 2 rows" }).click();
  const text = page.getByRole("textbox", { name: "CSV or JSON" });
  const failed = await text.inputValue();
  expect(failed.split("\n").map((l) => l.split(",")[1])).toEqual(["subject", "alfred", "selina"]);
  await text.fill(failed.replace("butler", "clerk").replace("alias", "department"));
  await page.getByRole("button", { name: "Import 2 rows" }).click();
  await page.getByRole("status").filter({ hasText: "2 added" }).waitFor();
  await page.getByRole("link", { name: "Show the members" }).click();

  // A role with an end, and a reason.
  await page.getByRole("table", { name: "Members" }).getByRole("button", { name: "lucius" }).click();
  const lucius = dialog(page, "lucius");
  await lucius.getByRole("button", { name: "Edit" }).click();
  const grant = dialog(page, "Edit lucius");
  await choose(grant, page, "Roles", "manager");
  await grant.getByRole("button", { name: "Limit manager in time" }).click();
  await grant.getByLabel("Until").fill("2099-06-30T18:00");
  await grant.getByRole("textbox", { name: "Reason" }).fill("stands in for bruce");
  await root.look("member-edit");
  await grant.getByRole("button", { name: "Save" }).click();
  await grant.waitFor({ state: "detached" });
  await lucius.getByText("stands in for bruce").waitFor();
  await lucius.getByText("manager → clerk").first().waitFor();
  await root.look("member");
  await lucius.getByRole("link", { name: "lucius" }).click();
  await page.getByRole("heading", { name: "lucius", level: 1 }).waitFor();
  await root.look("user");

  // A role that is in use says by whom before it goes.
  await root.open("#/tenants/wayne/roles?role=clerk");
  await clerk.getByText("3 members and the role manager").waitFor();
  await clerk.getByRole("button", { name: "Delete" }).click();
  const remove = dialog(page, "Delete clerk");
  await remove.getByText("3 members and the role manager").waitFor();
  await remove.getByRole("textbox", { name: "Type clerk to confirm" }).fill("clerk");
  await remove.getByRole("button", { name: "Revoke and delete" }).click();
  await remove.waitFor({ state: "detached" });
  await page.getByRole("status").filter({ hasText: "5 roles" }).waitFor();
  await root.leave();
});

test("tina sees her tenant alone, and a member that root changed meanwhile as a difference to choose from", async () => {
  const root = await Person.signIn(browser, "root");
  const tina = await Person.signIn(browser, "tina", "#/tenants");
  const { page } = tina;
  const seen: string[] = [];
  page.on("response", async (r) => {
    if (r.url().includes("/api/")) seen.push(await r.text().catch(() => ""));
  });
  await page.getByRole("button", { name: "Acme Corp" }).click();
  await page.getByRole("table", { name: "Members" }).getByRole("button", { name: "alice" }).click();
  const alice = dialog(page, "alice");
  await alice.getByRole("button", { name: "Edit" }).click();
  const edit = dialog(page, "Edit alice");
  await choose(edit, page, "Roles", "viewer");

  // Root is first.
  const { items } = (await call(root, "GET", "/v1/tenants/acme/members?subject=alice")) as {
    items: { user: string }[];
  };
  const path = `/v1/tenants/acme/members/${items[0]!.user}`;
  const response = await root.context.request.fetch(`${inject("console")}api${path}`, {
    method: "PATCH",
    headers: { "X-Requested-With": "iam-console", "Content-Type": "application/merge-patch+json" },
    data: JSON.stringify({ attributes: { department: "research" } }),
  });
  expect(response.status()).toBe(200);

  await edit.getByRole("button", { name: "Save" }).click();
  const conflict = dialog(page, "alice changed");
  await conflict.getByText("Somebody else was first").waitFor();
  await tina.look("member-conflict");
  await conflict.getByRole("button", { name: "Save this" }).click();
  await edit.waitFor({ state: "detached" });
  const now = (await call(root, "GET", path)) as { roles: string[]; attributes: object };
  expect(now.roles).toEqual(["editor", "viewer"]);
  expect(now.attributes).toEqual({ department: "research" });

  // Of another tenant, and of the platform, she sees nothing.
  for (const route of ["#/tenants/globex/members", "#/tenants/globex/roles"]) {
    await tina.open(route);
    await page.getByText("You may do nothing here").waitFor();
  }
  await tina.open("#/users");
  await page.getByRole("alert").waitFor();
  await tina.open("#/tenants");
  expect(await page.getByRole("button", { name: "Globex" }).count()).toBe(0);
  expect(await page.getByRole("button", { name: "Create a tenant" }).count()).toBe(0);
  expect(seen.length).toBeGreaterThan(5);
  expect(seen.filter((body) => /globex|bob/i.test(body))).toEqual([]);
  await tina.leave();
  await root.leave();
});

/** The longest that an interaction within `run` took to the next paint, as the browser measures it (Event Timing). */
async function slowest(page: Page, run: () => Promise<void>): Promise<number> {
  await page.evaluate(() => {
    const w = window as unknown as { timings: number[]; observer: PerformanceObserver };
    w.timings = [];
    w.observer = new PerformanceObserver((list) => {
      for (const e of list.getEntries() as (PerformanceEntry & { interactionId?: number })[]) {
        if (e.interactionId) w.timings.push(e.duration);
      }
    });
    w.observer.observe({ type: "event", durationThreshold: 16 } as PerformanceObserverInit);
  });
  await run();
  return page.evaluate(async () => {
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 50)));
    const w = window as unknown as { timings: number[]; observer: PerformanceObserver };
    w.observer.disconnect();
    return Math.max(0, ...w.timings);
  });
}

/** Scrolls a list to its end, page by page, and returns the longest task of the main thread on the way. */
async function scrollToEnd(page: Page, label: string, rows: number): Promise<number> {
  const list = page.getByRole("region", { name: label });
  await page.evaluate(() => {
    const w = window as unknown as { tasks: number[]; long: PerformanceObserver };
    w.tasks = [];
    w.long = new PerformanceObserver((l) => w.tasks.push(...l.getEntries().map((e) => e.duration)));
    w.long.observe({ type: "longtask" });
  });
  await expect
    .poll(
      async () => {
        await list.evaluate((e) => e.scrollTo({ top: e.scrollHeight }));
        return Number(await page.getByRole("table", { name: label }).getAttribute("aria-rowcount"));
      },
      { timeout: 100_000, interval: 20 },
    )
    .toBe(rows + 1);
  return page.evaluate(() => {
    const w = window as unknown as { tasks: number[]; long: PerformanceObserver };
    w.long.disconnect();
    return Math.max(0, ...w.tasks);
  });
}

// Milliseconds. 100 is what the console is held to on a quiet machine, each night; a busy one must not fail a change.
const limit = Number(process.env.CONSOLE_LIMIT_MS ?? 300);

test("10,000 members and 1,000 roles scroll, filter and open without delay", { timeout: 300_000 }, async () => {
  const root = await Person.signIn(browser, "root");
  const { page } = root;
  await call(root, "POST", "/v1/tenants", { id: "large", slug: "large", name: "Large" });
  for (let i = 0; i < 996; i++) {
    const name = `role-${String(i).padStart(3, "0")}`;
    await call(root, "POST", "/v1/tenants/large/roles", {
      name,
      permissions: [`thing-${i}:read`],
      inherits: i % 10 === 0 ? [] : [`role-${String(i - 1).padStart(3, "0")}`],
    });
  }
  for (let piece = 0; piece < 10; piece++) {
    const members = Array.from({ length: 1000 }, (_, i) => ({
      subject: `person-${String(piece * 1000 + i).padStart(5, "0")}`,
      roles: [`role-${String(i % 900).padStart(3, "0")}`],
    }));
    await call(root, "POST", "/v1/tenants/large/members:batch", { members });
  }

  const measured: Record<string, number> = {};
  await root.open("#/tenants/large/members");
  const members = page.getByRole("table", { name: "Members" });
  await members.getByRole("row").nth(5).waitFor();
  measured["scroll members, longest task"] = await scrollToEnd(page, "Members", 10_000);
  await root.look("members-10000");
  measured["open a member"] = await slowest(page, async () => {
    await members.getByRole("button").last().click();
    await page.getByRole("dialog").getByRole("button", { name: "Edit" }).waitFor();
  });
  measured["close a member"] = await slowest(page, async () => {
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
    await page.getByRole("dialog").waitFor({ state: "detached" });
  });
  measured["filter members"] = await slowest(page, async () => {
    await page.getByRole("textbox", { name: "Search members" }).pressSequentially("person-0999");
    await page.getByRole("status").filter({ hasText: "10 entries" }).waitFor();
  });

  await page.getByRole("tab", { name: "Roles", exact: true }).click();
  const roles = page.getByRole("table", { name: "Roles" });
  await roles.getByRole("row").nth(5).waitFor();
  measured["scroll roles, longest task"] = await scrollToEnd(page, "Roles", 1000);
  measured["filter roles"] = await slowest(page, async () => {
    await page.getByRole("textbox", { name: "Search roles" }).pressSequentially("role-99");
    await page.getByRole("status").filter({ hasText: "6 roles" }).waitFor();
  });
  measured["open a role"] = await slowest(page, async () => {
    await roles.getByRole("button", { name: "role-995" }).click();
    await dialog(page, "role-995").waitFor();
  });
  await root.look("roles-1000");
  console.log("milliseconds, by the browser:", measured);
  for (const [what, ms] of Object.entries(measured)) expect(ms, what).toBeLessThan(limit);
  await root.leave();
});
