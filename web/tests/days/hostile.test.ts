// What others put into the console stays text, another origin cannot act, and a tenant's administrator receives nothing of
// another tenant.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { Admin } from "../lib/admin";
import { launch, Person } from "../lib/browser";

const payload = `"'><img id=planted src=x onerror=window.planted=1>`;
/** The payload with the name of the field in which it is: each must be seen, as text. */
const planted = (field: string) => `${payload}<i>in ${field}</i>`;
const uri = "https://example.com/?q='%22%3E%3Cimg%20id=planted%20src=x%20onerror=window.planted=1%3E";

let browser: Browser;
let root: Admin;
beforeAll(async () => {
  browser = await launch();
  root = await Admin.as("root");
});
afterAll(() => browser.close());

/** Every screen and tab, for a tenant. */
const routesOf = (tenant: string) => [
  "#/",
  "#/?as=table",
  "#/tenants",
  ...["members", "roles", "mappings", "requests", "groups", "settings"].map((tab) => `#/tenants/${tenant}/${tab}`),
  "#/roles",
  "#/users",
  `#/access/search?tenant=${tenant}&role=planted`,
  `#/access/search?tenant=${tenant}&permission=planted:read`,
  `#/access/search?tenant=${tenant}&ask=held`,
  `#/access/search?tenant=${tenant}&ask=request`,
  `#/access/matrix?tenant=${tenant}`,
  `#/access/matrix?tenant=${tenant}&of=members`,
  `#/access/graph?tenant=${tenant}&role=planted`,
  `#/access/graph?tenant=${tenant}&as=list`,
  `#/access/unused?tenant=${tenant}`,
  `#/access/changes?tenant=${tenant}`,
  "#/clients",
  "#/decisions",
  "#/audit",
  "#/policy",
  "#/policy/revisions",
  "#/policy/preview",
  "#/policy/shadow",
  "#/policy/playground",
];

async function visit(page: Page, route: string): Promise<void> {
  await page.goto(inject("console") + route);
  await page.getByRole("heading", { level: 1 }).first().waitFor();
  // Screens that follow a stream are never idle.
  await page.waitForLoadState("networkidle", { timeout: 5_000 }).catch(() => {});
}

test("text of others stays text on every screen", { timeout: 300_000 }, async () => {
  const tenant = "hostile";
  await root.send("POST", "/v1/tenants", {
    id: tenant,
    slug: tenant,
    name: planted("a tenant's name"),
    attributes: { plan: planted("a tenant's attribute") },
  });
  await root.send("POST", `/v1/tenants/${tenant}/roles`, {
    name: "planted",
    description: planted("a role's description"),
    permissions: ["planted:read"],
  });
  await root.send("POST", `/v1/tenants/${tenant}/roles`, {
    name: "askable",
    permissions: ["planted:write"],
    request: { by: ["planted"], approval: "required", max_seconds: 3600 },
  });
  const subject = planted("a subject");
  await root.send("POST", "/v1/users", { subject, attributes: { department: planted("a user's attribute") } });
  await root.send("POST", `/v1/tenants/${tenant}/members`, {
    subject,
    roles: ["planted"],
    attributes: { department: planted("a member's attribute") },
    role_terms: {
      planted: { expires_at: new Date(Date.now() + 86_400_000).toISOString(), reason: planted("a term's reason") },
    },
  });
  await root.send("POST", `/v1/tenants/${tenant}/mappings`, {
    claim: "groups",
    value: planted("a mapping's value"),
    roles: ["planted"],
  });
  await root.send("POST", `/v1/tenants/${tenant}/members`, { subject: "alice", roles: ["planted"] });
  await (await Admin.as("alice")).send("POST", `/v1/tenants/${tenant}/requests`, {
    role: "askable",
    seconds: 600,
    reason: planted("a request's reason"),
  });
  const user = await root.find("/v1/users", { subject });
  const client = await root.send("POST", "/v1/clients", {
    tenant,
    client_name: planted("a client's name"),
    redirect_uris: [uri],
    grant_types: ["authorization_code"],
    token_endpoint_auth_method: "none",
  });
  const paula = await Admin.as("paula");
  const bundle = await paula.bytes("POST", "/v1/policy/drafts", { name: planted("a bundle's name") });
  await paula.upload("/v1/policy/revisions", bundle);
  const token = await Admin.token("alice", "iam");
  for (const path of [payload, `/${payload}`]) {
    await fetch(`${inject("gateway")}/system/enrich-token`, {
      headers: {
        Authorization: `Bearer ${token}`,
        "X-Active-Tenant-ID": "initech",
        "X-Original-URI": path,
        "X-Forwarded-Uri": path,
        "X-Forwarded-Method": "GET",
        "User-Agent": payload,
      },
    });
  }

  const person = await Person.signIn(browser, "root");
  const { page } = person;
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (e) => {
      console.error(`content security policy: ${e.violatedDirective} ${e.blockedURI}`);
    });
  });
  page.on("dialog", (d) => {
    person.faults.push(`dialog: ${d.message()}`);
    void d.dismiss();
  });
  await page.reload();
  const fields = [
    "a tenant's name",
    "a tenant's attribute",
    "a role's description",
    "a subject",
    "a user's attribute",
    "a member's attribute",
    "a term's reason",
    "a mapping's value",
    "a request's reason",
    "a client's name",
    "a bundle's name",
  ];
  // What is read after the screen is there.
  const shownBy: [string, string[]][] = [
    ["/requests", ["a request's reason"]],
    ["/roles?role=planted", ["a role's description"]],
    [`/members?member=${user.id}`, ["a member's attribute", "a term's reason"]],
    [`#/users/${user.id}`, ["a user's attribute"]],
    ["/settings", ["a tenant's attribute", "a tenant's name"]],
    ["/mappings", ["a mapping's value"]],
    ["#/policy/revisions", ["a bundle's name"]],
  ];
  const seen = new Set<string>();
  const routes = [
    ...routesOf(tenant),
    `#/users/${user.id}`,
    `#/tenants/${tenant}/members?member=${user.id}`,
    `#/tenants/${tenant}/roles?role=planted`,
    `#/access/search?tenant=${tenant}&ask=held&user=${user.id}`,
    ...(client.client_id ? [`#/clients/${client.client_id}`] : []),
  ];
  for (const route of routes) {
    await visit(page, route);
    for (const [end, fields] of shownBy) {
      if (!route.endsWith(end)) continue;
      for (const field of fields) {
        await page.waitForFunction((text) => {
          const inputs = [...document.querySelectorAll<HTMLInputElement>("input, textarea")].map((e) => e.value);
          return [document.body.textContent, ...inputs].some((t) => t?.includes(text));
        }, `in ${field}`);
      }
    }
    const found = await page.evaluate(() => ({
      ran: "planted" in window && (window as { planted?: unknown }).planted === 1,
      elements:
        document.querySelectorAll("#planted").length +
        [...document.scripts].filter((s) => s.text.includes("planted")).length,
      // Drawers and dialogs are beside the root.
      text: [
        document.body.textContent,
        ...[...document.querySelectorAll("input, textarea")].map((e) => (e as HTMLInputElement).value),
      ].join(" "),
    }));
    expect(found, `on ${route}`).toMatchObject({ ran: false, elements: 0 });
    for (const field of fields) {
      if (found.text.includes(`<i>in ${field}</i>`) || found.text.includes(`<i>in ${field}<\\/i>`)) seen.add(field);
    }
  }
  // Else a payload was not shown, and nothing was tested about it.
  expect(
    fields.filter((f) => !seen.has(f)),
    "fields whose payload no screen shows",
  ).toEqual([]);
  await person.leave();
});

test("another origin cannot act as the person", async () => {
  const person = await Person.signIn(browser, "root");
  const base = inject("console");
  const page = `<!doctype html><title>elsewhere</title>
    <form id=create method=post action="${base}api/v1/tenants" enctype="text/plain" target=result>
      <input name='{"id":"forged","slug":"forged","name":"' value='"}'></form>
    <form id=logout method=post action="${base}logout" target=result></form>
    <iframe name=result></iframe>`;
  const server: Server = createServer((_, response) => {
    response.setHeader("Content-Type", "text/html");
    response.end(page);
  });
  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
  try {
    // A page that is not the console's: it is not watched as one, since the browser reports what it blocks.
    const elsewhere = await person.context.newPage();
    // "localhost" is another site than 127.0.0.1, and another port of 127.0.0.1 is another origin of the same site.
    for (const host of ["localhost", "127.0.0.1"]) {
      await elsewhere.goto(`http://${host}:${(server.address() as AddressInfo).port}/`);
      const outcomes = await elsewhere.evaluate(async (to) => {
        const results: string[] = [];
        const attempts: [string, RequestInit][] = [
          ["api/v1/me", {}],
          ["api/v1/me", { headers: { "X-Requested-With": "iam-console" } }],
          ["session", {}],
          ["session?extend=1", { mode: "no-cors" }],
          ["logout", { method: "POST", mode: "no-cors" }],
          ["logout", { method: "POST", headers: { "X-Requested-With": "iam-console" } }],
          [
            "api/v1/tenants",
            { method: "POST", mode: "no-cors", body: '{"id":"forged","slug":"forged","name":"forged"}' },
          ],
        ];
        for (const [path, init] of attempts) {
          try {
            const response = await fetch(to + path, { ...init, credentials: "include" });
            results.push(response.type === "opaque" ? "opaque" : `read ${response.status}`);
          } catch {
            results.push("blocked");
          }
        }
        return results;
      }, base);
      expect(outcomes.filter((o) => o.startsWith("read"))).toEqual([]);
      for (const form of ["create", "logout"]) {
        // The frame loads whatever the service responds; that nothing was done is checked afterwards.
        await elsewhere.evaluate(
          (id) =>
            new Promise<void>((done) => {
              document.querySelector("iframe")!.onload = () => done();
              (document.getElementById(id) as HTMLFormElement).submit();
            }),
          form,
        );
      }
    }
    await elsewhere.close();
  } finally {
    server.close();
  }
  // Nothing was done, and the person is still signed in.
  expect(await root.status("/v1/tenants/forged")).toBe(404);
  await person.page.reload();
  await person.page.getByRole("button", { name: "Signed in as root" }).waitFor();
  await person.context.close();
});

test("a tenant's administrator receives nothing of another tenant", { timeout: 300_000 }, async () => {
  const marker = "zzglobexsecret";
  await root.send("POST", "/v1/tenants/globex/roles", { name: `${marker}-role`, description: marker });
  await root.send("POST", "/v1/tenants/globex/members", { subject: `${marker}-subject`, roles: [`${marker}-role`] });
  await root.send("POST", "/v1/tenants/globex/mappings", {
    claim: "groups",
    value: `${marker}-group`,
    roles: [`${marker}-role`],
  });
  const member = await root.find("/v1/users", { subject: `${marker}-subject` });

  const tina = await Person.signIn(browser, "tina");
  const bodies: Promise<{ url: string; text: string }>[] = [];
  tina.page.on("response", (r) => {
    if (r.url().includes("/console/api/"))
      bodies.push(
        r.text().then(
          (text) => ({ url: r.url(), text }),
          () => ({ url: r.url(), text: "" }),
        ),
      );
  });
  await tina.page.reload();
  // Her own tenant, and links into the other one that somebody sent her.
  for (const route of [...routesOf("acme"), ...routesOf("globex")]) await visit(tina.page, route);
  const received = await Promise.all(bodies);
  expect(received.filter((b) => b.text !== "").length).toBeGreaterThan(20);
  for (const secret of [marker, member.id, '"Globex"', "Initech"]) {
    expect(
      received.filter((b) => b.text.includes(secret)).map((b) => b.url),
      `responses with ${secret}`,
    ).toEqual([]);
  }
  await tina.leave();
});
