import { describe, expect, test } from "vitest";
import { complete, rulesOf } from "../../src/components/rego";
import { filesOf, withCase, withText } from "../../src/screens/playground/draft";
import { askedFrom, questionOf, searchOf } from "../../src/screens/playground/question";
import { byRule, byTenant, type Section } from "../../src/screens/policy/report";

const files = {
  "iam/claims/claims.rego": `# METADATA
# schemas:
#   - input: schema.enrichment
package iam.claims

import data.iam.config

default allow := false
grants contains _reason(1) if { true }
_membership := m if { m := 1 }
`,
  "iam/authzen/authzen.rego": "package iam.authzen\n\nanswer := 1\n",
  "schemas/enrichment.json": JSON.stringify({
    properties: { token: { properties: { iss: { type: "string" } } }, request: { properties: { path: {} } } },
  }),
  "schemas/directory.json": JSON.stringify({
    properties: {
      users: { additionalProperties: { additionalProperties: { properties: { status: {}, memberships: {} } } } },
    },
  }),
  "schemas/config.json": JSON.stringify({ properties: { allow_without_tenant: { type: "boolean" } } }),
};

const labels = (before: string) => complete(files, "iam/claims/claims.rego", before).options.map((o) => o.label);

describe("completion of Rego", () => {
  for (const { after, offers } of [
    { after: "	inp", offers: ["input", "grants", "_membership", "startswith", "config", "contains"] },
    { after: "	input.", offers: ["token", "request"] },
    { after: "	input.token.i", offers: ["iss"] },
    { after: "	data.", offers: ["directory", "iam"] },
    { after: "	data.iam.", offers: ["claims", "authzen"] },
    { after: "	data.iam.authzen.", offers: ["answer"] },
    { after: "	data.directory.users[iss][sub].", offers: ["status", "memberships"] },
    { after: "	config.", offers: ["allow_without_tenant"] },
    { after: "	object.", offers: ["get"] },
  ]) {
    test(`offers ${offers.join(", ")} after ${after.trim()}`, () => {
      expect(labels(after)).toEqual(expect.arrayContaining(offers));
    });
  }

  test("finds the rules of a file", () => {
    expect(rulesOf(files["iam/claims/claims.rego"])).toEqual(["allow", "grants", "_membership"]);
  });
});

describe("a draft", () => {
  const base = [{ path: "a.rego", kind: "rego" as const, text: "package a\n" }];

  test("has no change where the text is that of the base again", () => {
    const changed = withText(base, {}, "a.rego", "package b\n");
    expect(changed).toEqual({ "a.rego": "package b\n" });
    expect(withText(base, changed, "a.rego", "package a\n")).toEqual({});
  });

  test("marks what is changed, new and removed", () => {
    const marks = filesOf(base, { "a.rego": null, "cases/new.yaml": "cases:\n" }).map((f) => [f.path, f.kind, f.mark]);
    expect(marks).toEqual([
      ["a.rego", "rego", "removed"],
      ["cases/new.yaml", "cases", "new"],
    ]);
  });

  test("appends a case to a file with or without a final line break", () => {
    expect(withCase(undefined, "  - title: x\n")).toBe("cases:\n  - title: x\n");
    expect(withCase("cases:\n  - title: a", "  - title: x\n")).toBe("cases:\n  - title: a\n  - title: x\n");
  });
});

describe("the question", () => {
  test("is in the URL without the token", () => {
    const asked = { ...askedFrom(new URLSearchParams("tenant=acme")), how: "token" as const, token: "secret" };
    expect(questionOf(asked)).toMatchObject({ token: "secret", tenant: "acme" });
    expect(searchOf(asked, new URLSearchParams("file=a.rego")).toString()).toBe("file=a.rego&how=token&tenant=acme");
  });

  test("comes back from the URL that it has written", () => {
    const asked = { ...askedFrom(new URLSearchParams()), user: "alice", tenant: "acme", method: "POST", path: "/x" };
    expect(askedFrom(searchOf(asked, new URLSearchParams()))).toEqual(asked);
  });

  test("is none without a caller", () => {
    expect(questionOf(askedFrom(new URLSearchParams("tenant=acme")))).toBeUndefined();
  });
});

describe("the report of a preview", () => {
  const section: Section = {
    asked: 10,
    counts: { loses: 3, reasons: 5 },
    groups: [
      { kind: "loses", before: ["member"], after: ["member", "closed"], count: 3, sample: [] },
      { kind: "reasons", before: ["a"], after: ["b"], count: 5, sample: [] },
    ],
    tenants: [
      { tenant: "acme", counts: { reasons: 5 } },
      { tenant: "umbrella", counts: { loses: 3 } },
    ],
  };

  test("counts by the rule that came, without changes that nobody notices", () => {
    expect(byRule(section)).toEqual([{ rule: "closed", count: 3 }]);
  });

  test("counts by tenant", () => {
    expect(byTenant(section)).toEqual([{ tenant: "umbrella", count: 3 }]);
  });
});
