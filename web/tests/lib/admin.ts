// The admin API, to prepare what a test needs: as a person, with a token of the development R-Auth.
import { inject } from "vitest";

export class Admin {
  private constructor(
    private readonly bearer: string,
    private readonly url: string,
  ) {}

  static async token(user: string, audience: string): Promise<string> {
    const response = await fetch(`${inject("rauth")}/dev/token?${new URLSearchParams({ user, aud: audience })}`);
    if (!response.ok) throw new Error(`R-Auth responded ${response.status}`);
    return (await response.text()).trim();
  }

  static async as(user: string): Promise<Admin> {
    return new Admin(await Admin.token(user, "iam-admin"), process.env.ADMIN_URL ?? new URL(inject("console")).origin);
  }

  private request(method: string, path: string, body?: unknown): Promise<Response> {
    return fetch(this.url + path, {
      method,
      headers: {
        Authorization: `Bearer ${this.bearer}`,
        ...(body === undefined
          ? {}
          : { "Content-Type": method === "PATCH" ? "application/merge-patch+json" : "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  }

  /** Sends a request, which must have one of the statuses. */
  async send(
    method: string,
    path: string,
    body?: unknown,
    statuses = [200, 201, 202],
  ): Promise<Record<string, string>> {
    const response = await this.request(method, path, body);
    const text = await response.text();
    if (!statuses.includes(response.status)) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return text ? JSON.parse(text) : {};
  }

  /** Sends a request whose response is no JSON. */
  async bytes(method: string, path: string, body: unknown): Promise<ArrayBuffer> {
    const response = await this.request(method, path, body);
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.arrayBuffer();
  }

  /** Uploads a bundle. */
  async upload(path: string, bundle: ArrayBuffer): Promise<void> {
    const response = await fetch(this.url + path, {
      method: "POST",
      headers: { Authorization: `Bearer ${this.bearer}`, "Content-Type": "application/gzip" },
      body: bundle,
    });
    if (!response.ok) throw new Error(`POST ${path}: ${response.status} ${await response.text()}`);
  }

  async status(path: string): Promise<number> {
    return (await this.request("GET", path)).status;
  }

  /** The only entry of a list that fits. */
  async find(path: string, query: Record<string, string>): Promise<{ id: string }> {
    const { items } = (await this.send("GET", `${path}?${new URLSearchParams(query)}`)) as unknown as {
      items: { id: string }[];
    };
    if (items.length !== 1) throw new Error(`${path} has ${items.length} entries that fit`);
    return items[0]!;
  }
}
