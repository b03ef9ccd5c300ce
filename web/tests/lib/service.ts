// Runs the service for the browser tests: bin/iam-dev with PostgreSQL, R-Auth and NATS embedded, and fresh sample data.
// CONSOLE_URL names a service that runs already; CONSOLE_PREFIX puts a gateway before it that removes this prefix.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer as createGateway, request as forward, type Server } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  export interface ProvidedContext {
    console: string; // URL, with its final slash
    gateway: string;
    rauth: string;
  }
}

const root = join(import.meta.dirname, "../../..");

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** A gateway that removes a prefix of paths, and passes the rest on as it is. */
function gatewayBefore(port: number, prefix: string): Server {
  return createGateway((request, response) => {
    if (!request.url?.startsWith(`${prefix}/`)) {
      response.writeHead(404).end();
      return;
    }
    const { method, headers } = request;
    const upstream = forward(
      { host: "127.0.0.1", port, method, headers, path: request.url.slice(prefix.length) },
      (from) => {
        response.writeHead(from.statusCode ?? 502, from.headers);
        from.pipe(response);
      },
    );
    upstream.once("error", () => response.destroy());
    request.pipe(upstream);
  });
}

export default async function setup(project: TestProject) {
  if (process.env.CONSOLE_URL) {
    project.provide("console", process.env.CONSOLE_URL.replace(/\/?$/, "/"));
    project.provide("gateway", process.env.GATEWAY_URL ?? "http://127.0.0.1:8080");
    project.provide("rauth", process.env.RAUTH_URL ?? "http://127.0.0.1:8090");
    return;
  }
  const [gateway, admin, ops, rauth] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
  const prefix = process.env.CONSOLE_PREFIX ?? "";
  const before = prefix ? gatewayBefore(admin, prefix) : undefined;
  const outside = before ? await freePort() : admin;
  before?.listen(outside, "127.0.0.1");
  const consoleURL = `http://127.0.0.1:${outside}${prefix}/console`;
  const dir = mkdtempSync(join(tmpdir(), "iam-console-"));
  const service = spawn(
    join(root, "bin/iam-dev"),
    ["--fresh", "--dir", join(dir, "data"), "--rauth", `127.0.0.1:${rauth}`],
    {
      cwd: root,
      env: {
        ...process.env,
        GATEWAY_ADDR: `127.0.0.1:${gateway}`,
        ADMIN_ADDR: `127.0.0.1:${admin}`,
        OPS_ADDR: `127.0.0.1:${ops}`,
        ADMIN_WRITES_PER_MINUTE: "100000", // a test creates 1,000 roles
        CONSOLE_URL: consoleURL,
        AUTHZEN_URL: `http://127.0.0.1:${gateway}`,
      },
    },
  );
  let output = "";
  await new Promise<void>((resolve, reject) => {
    const collect = (chunk: Buffer) => {
      output += chunk.toString();
      if (output.includes("iam-service is ready")) resolve();
    };
    service.stdout.on("data", collect);
    service.stderr.on("data", collect);
    service.once("error", reject);
    service.once("exit", (code) => reject(new Error(`iam-dev ended with ${code}:\n${output}`)));
  });
  project.provide("console", `${consoleURL}/`);
  project.provide("gateway", `http://127.0.0.1:${gateway}`);
  project.provide("rauth", `http://127.0.0.1:${rauth}`);
  return async () => {
    service.removeAllListeners("exit");
    const ended = new Promise((resolve) => service.once("exit", resolve));
    service.kill("SIGTERM");
    await ended;
    before?.close();
    rmSync(dir, { recursive: true, force: true });
  };
}
