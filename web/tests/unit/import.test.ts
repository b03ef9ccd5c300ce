import { expect, test } from "vitest";
import { ProblemError } from "../../src/api/problem";
import { csvLine, inert, parseCSV, separatorOf } from "../../src/screens/tenants/members/csv";
import {
  csvOf,
  type MemberPost,
  type Outcome,
  parseImport,
  piecesOf,
  reportOf,
  sendRows,
} from "../../src/screens/tenants/members/importRows";

const known = { roles: new Set(["editor", "viewer"]), now: Date.parse("2030-01-01T00:00:00Z") };
const cells = (text: string) => parseCSV(text).records.map((r) => r.cells);

test.each([
  {
    name: "plain cells",
    text: "a,b\nc,d",
    want: [
      ["a", "b"],
      ["c", "d"],
    ],
  },
  {
    name: "a quoted separator, quote and line break",
    text: 'a,"b,""c""\nd"\ne,f',
    want: [
      ["a", 'b,"c"\nd'],
      ["e", "f"],
    ],
  },
  {
    name: "CRLF and an empty line",
    text: "a,b\r\n\r\nc,d\r\n",
    want: [
      ["a", "b"],
      ["c", "d"],
    ],
  },
  {
    name: "a last cell that is empty",
    text: "a,\nb,",
    want: [
      ["a", ""],
      ["b", ""],
    ],
  },
  {
    name: "semicolons, as spreadsheets write them",
    text: "a;b\n1,5;2",
    want: [
      ["a", "b"],
      ["1,5", "2"],
    ],
  },
  { name: "a byte order mark", text: "\uFEFFa,b", want: [["a", "b"]] },
])("CSV with $name is read", ({ text, want }) => {
  expect(cells(text)).toEqual(want);
});

test("a record knows its line, also after a cell of several lines", () => {
  expect(parseCSV('a\n"b\nc"\nd').records.map((r) => r.line)).toEqual([1, 2, 4]);
  expect(parseCSV('a\n"b').unclosed).toBe(2);
  expect(separatorOf("a\tb\tc,d")).toBe("\t");
});

test("what is written as CSV is read as it was", () => {
  const row = ['say "hi"', "a,b", " padded ", "two\nlines", ""];
  expect(cells(csvLine(row))).toEqual([row]);
  expect(["=1+1", "@x", "+4", "ann"].map(inert)).toEqual(["'=1+1", "'@x", "'+4", "ann"]);
});

test("rows of CSV become members, with dates, roles and attributes", () => {
  const { rows, error } = parseImport(
    'subject,roles,expires_at,attributes,issuer\nann,"viewer, editor",2030-12-31,"{""department"":""sales""}",https://idp\nben,viewer;editor,2030-12-31T18:00:00+02:00,,',
    known,
  );
  expect(error).toBeUndefined();
  expect(rows.flatMap((r) => r.faults)).toEqual([]);
  expect(rows.map((r) => r.member)).toEqual([
    {
      subject: "ann",
      issuer: "https://idp",
      status: "active",
      roles: ["viewer", "editor"],
      expires_at: "2030-12-31T00:00:00Z",
      attributes: { department: "sales" },
    },
    { subject: "ben", status: "active", roles: ["viewer", "editor"], expires_at: "2030-12-31T16:00:00.000Z" },
  ]);
});

test.each([
  { name: "no subject", row: ",viewer,,", fault: "subject: is missing" },
  { name: "an unknown role", row: "ann,boss,,", fault: "roles: there is no role boss" },
  { name: "an end in the past", row: "ann,,2029-01-01,", fault: "expires_at: is in the past" },
  { name: "no date", row: "ann,,soon,", fault: "expires_at: must be a date" },
  { name: "attributes that are no object", row: "ann,,,[1]", fault: "attributes: must be a JSON object" },
  { name: "too many cells", row: "ann,,,,,", fault: ": has 6 cells, the header 4" },
])("a row with $name says so at its field", ({ row, fault }) => {
  const { rows } = parseImport(`subject,roles,expires_at,attributes\n${row}`, known);
  expect(rows[0]!.faults.map((f) => `${f.field}: ${f.detail}`).join()).toContain(fault);
});

test("the second row with the same issuer and subject is invalid", () => {
  const { rows } = parseImport("subject,issuer\nann,a\nann,b\nann,a", known);
  expect(rows.map((r) => r.faults.length)).toEqual([0, 0, 1]);
  expect(rows[2]!.faults[0]!.detail).toBe("row 2 has the same issuer and subject");
});

test.each([
  { name: "an unknown column", text: "subject,rolle\nann,x", error: "Unknown columns: rolle" },
  { name: "no header", text: "ann,viewer", error: "must name the columns" },
  { name: "a column twice", text: "subject,subject\nann,x", error: "is there twice" },
  { name: "an open quote", text: 'subject\n"ann', error: "Line 2 has a quote" },
  { name: "broken JSON", text: '[{"subject": ', error: "no valid JSON" },
])("a text with $name is no import", ({ text, error }) => {
  expect(parseImport(text, known).error).toContain(error);
});

test.each([
  { name: "an array", text: '[{"subject":"ann","roles":["viewer"]}]' },
  { name: "a batch", text: '{"members":[{"subject":"ann","roles":["viewer"]}]}' },
  { name: "one object", text: '{"subject":"ann","roles":["viewer"]}' },
])("JSON as $name is read", ({ text }) => {
  expect(parseImport(text, known).rows.map((r) => r.member)).toEqual([
    { subject: "ann", roles: ["viewer"], status: "active" },
  ]);
});

test("JSON lines are read, and unknown fields are named", () => {
  const { rows } = parseImport('{"subject":"ann"}\n{"subject":"ben","mail":"x"}', known);
  expect(rows.map((r) => r.member.subject)).toEqual(["ann", "ben"]);
  expect(rows[1]!.faults).toEqual([{ field: "mail", detail: "is not known" }]);
});

const many = (n: number) =>
  parseImport(`subject\n${Array.from({ length: n }, (_, i) => `u${i}`).join("\n")}`, known).rows;
const added = (members: MemberPost[]): Outcome[] =>
  members.map((_, i) => ({ user: `id${i}`, result: "added", version: 1 }));
const problem = (status: number, more: object = {}) =>
  new ProblemError({ type: "about:blank", title: "no", status, ...more }, undefined);

test("pieces have 1,000 rows and 3.5 MB at most", () => {
  expect(piecesOf(many(2500)).map((p) => p.length)).toEqual([1000, 1000, 500]);
  const large = many(1000);
  for (const r of large) r.member.attributes = { a: "x".repeat(4000) };
  const pieces = piecesOf(large);
  expect(pieces.length).toBe(2);
  expect(pieces.flat()).toEqual(large);
});

test("invalid rows of a piece are marked with their fields, and the others are sent again without them", async () => {
  const rows = many(1200);
  const sizes: number[] = [];
  await sendRows({
    rows,
    post: async (members) => {
      sizes.push(members.length);
      if (sizes.length === 1)
        throw problem(422, {
          errors: [
            { pointer: "/members/17/roles/0", detail: "there is no role" },
            { pointer: "/members/999", detail: "is malformed" },
          ],
        });
      return added(members);
    },
    progress: () => {},
    stopped: () => false,
    wait: async () => {},
  });
  expect(sizes).toEqual([1000, 998, 200]);
  expect(rows.filter((r) => r.result === "added").length).toBe(1198);
  expect([17, 999].map((i) => [rows[i]!.result, rows[i]!.faults])).toEqual([
    ["invalid", [{ field: "roles", detail: "0: there is no role" }]],
    ["invalid", [{ field: "", detail: "is malformed" }]],
  ]);
});

test("a busy service is waited for, and another failure leaves the rest not sent", async () => {
  const rows = many(2000);
  const waits: number[] = [];
  let calls = 0;
  const sent = sendRows({
    rows,
    post: async (members) => {
      calls++;
      if (calls === 1) throw new ProblemError({ type: "about:blank", title: "busy", status: 503 }, 3);
      if (calls === 2) return added(members);
      throw problem(500);
    },
    progress: () => {},
    stopped: () => false,
    wait: async (s) => {
      waits.push(s);
    },
  });
  await expect(sent).rejects.toMatchObject({ status: 500 });
  expect(waits).toEqual([3]);
  expect(rows.filter((r) => r.result === "added").length).toBe(1000);
  expect(rows.filter((r) => r.result === undefined).length).toBe(1000);
});

test("the report has a line for each fault of each row, and failed rows can be imported again", () => {
  const { rows } = parseImport("subject,roles\nann,viewer\n=cmd,boss", known);
  rows[0]!.result = "added";
  expect(reportOf(rows).split("\r\n")).toEqual([
    "row,issuer,subject,roles,expires_at,attributes,result,field,detail",
    "2,,ann,viewer,,,added,,",
    "3,,'=cmd,boss,,,invalid,roles,there is no role boss",
  ]);
  expect(parseImport(csvOf(rows.slice(1)), known).rows[0]!.member.subject).toBe("=cmd");
});
