// Rego for CodeMirror: highlighting, and completion with the rules of the files and the paths of their schemas. There is no
// package for CodeMirror 6 that is maintained; this reads what colours need, and the service's compiler reports errors.
import type { Completion, CompletionContext, CompletionResult } from "@codemirror/autocomplete";
import { indentUnit, LanguageSupport, StreamLanguage, type StringStream } from "@codemirror/language";

const keywords = [
  "as",
  "contains",
  "default",
  "else",
  "every",
  "if",
  "import",
  "in",
  "not",
  "package",
  "some",
  "with",
] as const;

const atoms = new Set(["true", "false", "null"]);

// Builtins of OPA that the service's sandbox allows and policies of claims use; the compiler knows all.
const builtins =
  `abs all any array.concat array.reverse array.slice base64.decode base64.encode base64url.decode ceil concat contains
count endswith floor format_int glob.match graph.reachable indexof intersection is_array is_boolean is_null is_number is_object
is_set is_string json.filter json.marshal json.patch json.remove json.unmarshal lower max min net.cidr_contains
net.cidr_is_valid numbers.range object.filter object.get object.keys object.remove object.subset object.union
object.union_n print product regex.find_n regex.is_valid regex.match regex.replace regex.split rego.metadata.chain
rego.metadata.rule replace round semver.compare semver.is_valid sort split sprintf startswith strings.any_prefix_match
strings.any_suffix_match strings.replace_n strings.reverse substring sum time.clock time.date time.now_ns
time.parse_rfc3339_ns time.weekday to_number trim trim_left trim_prefix trim_right trim_space trim_suffix type_name union
upper urlquery.decode urlquery.encode walk yaml.marshal yaml.unmarshal`
    .split(/\s+/)
    .filter((b) => b !== "any" && b !== "all"); // of Rego v0

interface State {
  raw: boolean; // in a raw string, which may have several lines
  head: boolean; // after package or import
  depth: number; // of brackets
}

const words = new Set<string>(keywords);
const functions = new Set(builtins);

function token(stream: StringStream, state: State): string | null {
  if (state.raw) {
    if (stream.skipTo("`")) {
      stream.next();
      state.raw = false;
    } else stream.skipToEnd();
    return "string";
  }
  if (stream.sol()) state.head = false;
  if (stream.eatSpace()) return null;
  if (stream.peek() === "#") {
    stream.skipToEnd();
    return "comment";
  }
  if (stream.match(/^"(?:[^"\\]|\\.)*"?/)) return "string";
  if (stream.eat("`")) {
    state.raw = true;
    return token(stream, state) ?? "string";
  }
  if (stream.match(/^\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/)) return "number";
  const dotted = stream.match(/^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*/, false) as RegExpMatchArray | null;
  if (dotted) {
    const [first] = dotted[0].split(".");
    const whole = dotted[0];
    if (functions.has(whole) && stream.string[stream.pos + whole.length] === "(") {
      stream.match(whole);
      return "variableName.function";
    }
    stream.match(first!);
    if (words.has(first!)) {
      if (first === "package" || first === "import") state.head = true;
      return "keyword";
    }
    if (atoms.has(first!)) return "atom";
    if (first === "input" || first === "data") return "variableName.special";
    return state.head ? "namespace" : stream.column() === 0 ? "variableName.definition" : "variableName";
  }
  if (stream.match(/^\.[A-Za-z_]\w*/)) return state.head ? "namespace" : "propertyName";
  if (stream.match(/^(?::=|==|!=|<=|>=|[=<>+\-*/%&|])/)) return "operator";
  const bracket = stream.eat(/[[\]{}()]/);
  if (bracket) {
    state.depth = Math.max(0, state.depth + ("[{(".includes(bracket) ? 1 : -1));
    return "bracket";
  }
  stream.next();
  return null;
}

export const regoLanguage = StreamLanguage.define<State>({
  name: "rego",
  startState: () => ({ raw: false, head: false, depth: 0 }),
  token,
  indent: (state, after, { unit }) => Math.max(0, state.depth - (/^\s*[}\])]/.test(after) ? 1 : 0)) * unit,
  languageData: {
    commentTokens: { line: "#" },
    closeBrackets: { brackets: ["(", "[", "{", '"', "`"] },
    indentOnInput: /^\s*[}\])]$/,
  },
});

export const rego = () => new LanguageSupport(regoLanguage, indentUnit.of("\t"));

/** The part of JSON Schema that policies/schemas use. */
interface Schema {
  type?: string;
  description?: string;
  properties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  items?: Schema;
}

export type Files = Record<string, string>;

function schemaOf(files: Files, name: string): Schema | undefined {
  try {
    return JSON.parse(files[`schemas/${name}.json`] ?? "") as Schema;
  } catch {
    return undefined;
  }
}

const path = /(?:[A-Za-z_]\w*)(?:\.\w*|\[[^\]\n]*\])*$/;
const ruleHead = /^(?:default\s+)?([A-Za-z_]\w*)(?=\s*(?:\(|:=|=|\[|contains\b|if\b|\{))/gm;

/** The names that a Rego file defines. */
export const rulesOf = (text: string): string[] => [...new Set([...text.matchAll(ruleHead)].map((m) => m[1]!))];

export const packageOf = (text: string): string | undefined => /^package\s+([\w.]+)/m.exec(text)?.[1];

/** The schema below a path of names; a name in brackets is any. */
function below(schema: Schema | undefined, steps: string[]): Schema | undefined {
  let at = schema;
  for (const step of steps) {
    at = at?.properties?.[step] ?? (typeof at?.additionalProperties === "object" ? at.additionalProperties : at?.items);
  }
  return at;
}

const optionsOf = (schema: Schema | undefined): Completion[] =>
  Object.entries(schema?.properties ?? {}).map(([label, s]) => ({
    label,
    type: "property",
    detail: s.type,
    info: s.description,
  }));

/** What can follow at the end of a text: pure, for tests. */
export function complete(files: Files, file: string, before: string): { from: number; options: Completion[] } {
  const text = files[file] ?? "";
  const word = path.exec(before)?.[0] ?? "";
  const steps = word.replaceAll(/\[[^\]]*\]/g, ".*").split(".");
  const last = steps.pop() ?? "";
  const from = before.length - last.length;
  if (steps.length === 0) {
    const own = Object.entries(files)
      .filter(([name, t]) => name.endsWith(".rego") && packageOf(t) === packageOf(text))
      .flatMap(([, t]) => rulesOf(t));
    return {
      from,
      options: [
        ...[...new Set(own)].map((label) => ({ label, type: "variable", boost: 2 })),
        ...["input", "data"].map((label) => ({ label, type: "namespace", boost: 1 })),
        ...[...text.matchAll(/^import\s+[\w.]*?(\w+)(?:\s+as\s+(\w+))?$/gm)].map((m) => ({
          label: m[2] ?? m[1]!,
          type: "namespace",
        })),
        ...keywords.map((label) => ({ label, type: "keyword" })),
        ...["true", "false", "null"].map((label) => ({ label, type: "constant" })),
        ...builtins.map((label) => ({ label, type: "function" })),
      ],
    };
  }
  // An import is another name of a path.
  const alias = [...text.matchAll(/^import\s+([\w.]+?\.?(\w+))(?:\s+as\s+(\w+))?$/gm)].find(
    (m) => (m[3] ?? m[2]) === steps[0],
  );
  const full = alias ? [...alias[1]!.split("."), ...steps.slice(1)] : steps;
  if (full[0] === "input") {
    const named = /^#\s*-\s*input:\s*schema\.(\w+)/m.exec(text)?.[1];
    return { from, options: optionsOf(below(schemaOf(files, named ?? "enrichment"), full.slice(1))) };
  }
  if (full[0] !== "data") {
    const prefix = `${full.join(".")}.`;
    return {
      from,
      options: builtins
        .filter((b) => b.startsWith(prefix))
        .map((b) => ({ label: b.slice(prefix.length), type: "function" })),
    };
  }
  const options: Completion[] = [];
  if (full.length === 1) options.push({ label: "directory", type: "namespace", info: "Users, tenants and clients" });
  if (full[1] === "directory") options.push(...optionsOf(below(schemaOf(files, "directory"), full.slice(2))));
  if (full.slice(1, 3).join(".") === "iam.config")
    options.push(...optionsOf(below(schemaOf(files, "config"), full.slice(3))));
  const at = full.slice(1).join(".");
  for (const [name, t] of Object.entries(files)) {
    const pkg = name.endsWith(".rego") ? packageOf(t) : undefined;
    if (!pkg) continue;
    if (pkg === at) options.push(...rulesOf(t).map((label) => ({ label, type: "variable" })));
    else if (at === "" || pkg.startsWith(`${at}.`)) {
      const label = pkg.slice(at === "" ? 0 : at.length + 1).split(".")[0]!;
      if (!options.some((o) => o.label === label)) options.push({ label, type: "namespace" });
    }
  }
  return { from, options };
}

/** Completes a Rego file, with the files around it. */
export const regoCompletion =
  (files: () => Files, file: string) =>
  (context: CompletionContext): CompletionResult | null => {
    const line = context.state.doc.lineAt(context.pos);
    const before = context.state.sliceDoc(line.from, context.pos);
    if (/#|"[^"]*$/.test(before.replaceAll(/"(?:[^"\\]|\\.)*"/g, ""))) return null; // in a comment or a string
    if (!context.explicit && !/[\w.]$/.test(before)) return null;
    const all = { ...files(), [file]: context.state.doc.toString() };
    const { from, options } = complete(all, file, before);
    return options.length === 0 ? null : { from: line.from + from, options, validFor: /^\w*$/ };
  };
