// A person at a browser. Whatever they do, the page must log no error, send no request off the host, and have no violation
// of WCAG 2.2 AA that axe can find.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { AxeBuilder } from "@axe-core/playwright";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { expect, inject } from "vitest";

export const screenshots = join(import.meta.dirname, "../screenshots");

export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox", // as root, which it refuses otherwise
      "--disable-gpu",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--no-first-run",
    ],
  });
}

export class Person {
  readonly faults: string[] = [];

  private constructor(
    readonly name: string,
    readonly context: BrowserContext,
    readonly page: Page,
  ) {}

  /** Opens the console in a browser of their own and signs in at the development R-Auth. */
  static async signIn(browser: Browser, name: string, route = "#/"): Promise<Person> {
    const context = await browser.newContext({
      viewport: { width: 1280, height: 800 },
      locale: "en-GB",
      timezoneId: "Europe/Berlin",
      colorScheme: process.env.CONSOLE_COLOURS === "dark" ? "dark" : "light",
    });
    await context.grantPermissions(["clipboard-read", "clipboard-write"], {
      origin: new URL(inject("console")).origin,
    });
    const page = await context.newPage();
    const person = new Person(name, context, page);
    context.on("page", (p) => person.watch(p));
    person.watch(page);
    await page.goto(inject("console") + route);
    await page.getByRole("link", { name: "Sign in" }).click();
    await page.getByRole("link", { name, exact: true }).click();
    await page.getByRole("button", { name: `Signed in as ${name}` }).waitFor();
    return person;
  }

  private watch(page: Page): void {
    page.on("console", (m) => {
      // A response that is no success is logged by the browser itself; pages show it.
      if (m.type() === "error" && !m.text().startsWith("Failed to load resource"))
        this.faults.push(`console: ${m.text()}`);
    });
    page.on("pageerror", (e) => this.faults.push(`uncaught: ${e.message}`));
    const allowed = [new URL(inject("console")).host, new URL(inject("rauth")).host];
    page.on("request", (r) => {
      const url = new URL(r.url());
      if (url.protocol.startsWith("http") && !allowed.includes(url.host))
        this.faults.push(`request off the host: ${r.url()}`);
    });
  }

  async open(route: string): Promise<void> {
    await this.page.goto(inject("console") + route);
  }

  /** Checks the screen with axe, and takes its picture at two widths. */
  async look(name: string): Promise<void> {
    mkdirSync(screenshots, { recursive: true });
    await this.page.waitForLoadState("networkidle");
    for (const [label, width, height] of [
      ["wide", 1280, 800],
      ["narrow", 390, 844],
    ] as const) {
      await this.page.setViewportSize({ width, height });
      await this.page.screenshot({ path: join(screenshots, `${name}-${label}.png`), animations: "disabled" });
      const { violations } = await new AxeBuilder({ page: this.page })
        .withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"])
        .analyze();
      expect(
        violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html.slice(0, 200)).join(" | ")}`),
        `axe on ${name}, ${label}`,
      ).toEqual([]);
    }
    await this.page.setViewportSize({ width: 1280, height: 800 });
  }

  /** Ends: nothing must have gone wrong on the way. */
  async leave(): Promise<void> {
    await this.context.close();
    expect(this.faults, `what ${this.name}'s browser reported`).toEqual([]);
  }
}
