// The editor of a policy's files. Heavy: only lazily loaded screens import it.
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import {
  bracketMatching,
  codeFolding,
  foldGutter,
  HighlightStyle,
  indentOnInput,
  syntaxHighlighting,
} from "@codemirror/language";
import { type Diagnostic, lintGutter, lintKeymap, setDiagnostics } from "@codemirror/lint";
import { MergeView } from "@codemirror/merge";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { EditorState, type Extension, type Text } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useEffect, useRef } from "react";
import { type Files, rego, regoCompletion } from "./rego";

const nonce = () => document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]')?.nonce ?? "";

const look = EditorView.theme({
  "&": {
    fontSize: "13px",
    backgroundColor: "var(--mantine-color-body)",
    color: "var(--mantine-color-text)",
    height: "100%",
  },
  "&.cm-focused": { outline: "2px solid var(--mantine-primary-color-filled)" },
  ".cm-scroller": { fontFamily: "var(--mantine-font-family-monospace)", lineHeight: "1.5" },
  ".cm-content": { caretColor: "var(--mantine-color-text)" },
  ".cm-cursor": { borderLeftColor: "var(--mantine-color-text)" },
  ".cm-gutters": {
    backgroundColor: "light-dark(var(--mantine-color-gray-0), var(--mantine-color-dark-8))",
    color: "var(--mantine-color-dimmed)",
    borderRight: "1px solid var(--mantine-color-default-border)",
  },
  ".cm-activeLine, .cm-activeLineGutter": {
    backgroundColor: "light-dark(rgba(0,0,0,0.04), rgba(255,255,255,0.05))",
  },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: "light-dark(#cfd8ff, #33406e) !important",
  },
  ".cm-tooltip, .cm-panels": {
    backgroundColor: "var(--mantine-color-body)",
    color: "var(--mantine-color-text)",
    border: "1px solid var(--mantine-color-default-border)",
  },
  ".cm-panels input, .cm-panels button": { backgroundColor: "var(--mantine-color-default)", backgroundImage: "none" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": {
    backgroundColor: "var(--mantine-primary-color-filled)",
    color: "var(--mantine-primary-color-contrast)",
  },
});

const colours = syntaxHighlighting(
  HighlightStyle.define([
    { tag: tags.keyword, color: "light-dark(#862e9c, #e599f7)", fontWeight: "600" },
    { tag: tags.string, color: "light-dark(#2b6a30, #8ce99a)" },
    { tag: [tags.number, tags.atom], color: "light-dark(#9c3600, #ffc078)" },
    { tag: tags.comment, color: "light-dark(#5c636a, #a6a7ab)", fontStyle: "italic" },
    { tag: tags.function(tags.variableName), color: "light-dark(#0b5fa5, #74c0fc)" },
    { tag: tags.special(tags.variableName), color: "light-dark(#364fc7, #91a7ff)", fontWeight: "600" },
    { tag: tags.definition(tags.variableName), color: "light-dark(#364fc7, #91a7ff)" },
    { tag: tags.namespace, color: "light-dark(#0b5f73, #66d9e8)" },
    { tag: tags.operator, color: "light-dark(#495057, #ced4da)" },
  ]),
);

const language = (path: string): Extension => (path.endsWith(".rego") ? rego() : []);

/** An error or a warning at its place. Rows and columns count from 1, columns in bytes of UTF-8; 0: none is known. */
export interface Finding {
  row: number;
  col: number;
  endRow?: number;
  endCol?: number;
  message: string;
  severity: "error" | "warning";
}

function offset(doc: Text, row: number, col: number): number {
  if (row < 1) return 0;
  const line = doc.line(Math.min(row, doc.lines));
  const before = new TextDecoder().decode(new TextEncoder().encode(line.text).slice(0, Math.max(0, col - 1)));
  return Math.min(line.to, line.from + before.length);
}

function diagnostic(doc: Text, f: Finding): Diagnostic {
  const from = offset(doc, f.row, f.col);
  const end = f.endRow ? offset(doc, f.endRow, f.endCol ?? 0) : 0;
  const word = /^[\w.]+/.exec(doc.sliceString(from, doc.lineAt(from).to))?.[0].length ?? 1;
  const to = Math.min(doc.length, end > from ? end : from + word);
  return { from, to: Math.max(from, to), severity: f.severity, message: f.message };
}

/** Edits one of several files. Each has a history of its own while the editor is mounted. */
export function CodeEditor({
  path,
  value,
  onChange,
  files,
  findings = [],
  goTo,
  readOnly = false,
}: {
  path: string;
  value: string;
  onChange: (text: string) => void;
  /** For completion: the files around it. */
  files: Files;
  findings?: Finding[];
  /** Moves to a place, whenever the object is another. */
  goTo?: { row: number; col: number };
  readOnly?: boolean;
}) {
  const parent = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>(undefined);
  const states = useRef(new Map<string, EditorState>());
  const current = useRef({ onChange, files, path, readOnly });
  current.current = { ...current.current, onChange, files };

  // biome-ignore lint/correctness/useExhaustiveDependencies: a value from outside is dispatched below
  useEffect(() => {
    const create = () =>
      EditorState.create({
        doc: value,
        extensions: [
          EditorView.cspNonce.of(nonce()),
          lineNumbers(),
          foldGutter(),
          codeFolding(),
          history(),
          drawSelection(),
          indentOnInput(),
          bracketMatching(),
          closeBrackets(),
          highlightActiveLine(),
          highlightSelectionMatches(),
          search({ top: true }),
          lintGutter(),
          autocompletion(
            path.endsWith(".rego") ? { override: [regoCompletion(() => current.current.files, path)] } : {},
          ),
          language(path),
          look,
          colours,
          EditorState.readOnly.of(readOnly),
          EditorState.tabSize.of(4),
          keymap.of([
            ...closeBracketsKeymap,
            ...defaultKeymap,
            ...searchKeymap,
            ...historyKeymap,
            ...completionKeymap,
            ...lintKeymap,
          ]),
          EditorView.contentAttributes.of({ "aria-label": path, spellcheck: "false" }),
          EditorView.updateListener.of((u) => {
            if (u.docChanged) current.current.onChange(u.state.doc.toString());
          }),
        ],
      });
    const state = states.current.get(path) ?? create();
    if (view.current) view.current.setState(state);
    else view.current = new EditorView({ state, parent: parent.current! });
    view.current.scrollDOM.tabIndex = 0; // keyboards scroll it
    current.current.path = path;
    return () => {
      if (view.current) states.current.set(path, view.current.state);
    };
  }, [path, readOnly]);

  useEffect(
    () => () => {
      view.current?.destroy();
      view.current = undefined;
    },
    [],
  );

  useEffect(() => {
    const v = view.current;
    if (!v || current.current.path !== path || v.state.doc.toString() === value) return;
    v.dispatch({ changes: { from: 0, to: v.state.doc.length, insert: value } });
  }, [value, path]);

  useEffect(() => {
    const v = view.current;
    if (!v || current.current.path !== path) return;
    v.dispatch(
      setDiagnostics(
        v.state,
        findings.map((f) => diagnostic(v.state.doc, f)),
      ),
    );
  }, [findings, path]);

  useEffect(() => {
    const v = view.current;
    if (!v || !goTo) return;
    const at = offset(v.state.doc, goTo.row, goTo.col);
    v.dispatch({ selection: { anchor: at }, effects: EditorView.scrollIntoView(at, { y: "center" }) });
    v.focus();
  }, [goTo]);

  return <div ref={parent} style={{ height: "100%", minHeight: 0, overflow: "hidden" }} />;
}

/** Two texts side by side, with what differs marked. */
export function CodeCompare({ path, before, after }: { path: string; before: string; after: string }) {
  const parent = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const extensions = (label: string) => [
      EditorView.cspNonce.of(nonce()),
      lineNumbers(),
      EditorState.readOnly.of(true),
      EditorView.contentAttributes.of({ "aria-label": label }),
      EditorView.lineWrapping,
      language(path),
      look,
      colours,
    ];
    const merge = new MergeView({
      a: { doc: before, extensions: extensions(`${path}, before`) },
      b: { doc: after, extensions: extensions(`${path}, after`) },
      parent: parent.current!,
      collapseUnchanged: { margin: 3, minSize: 6 },
      gutter: true,
    });
    for (const side of [merge.a, merge.b]) side.scrollDOM.tabIndex = 0; // keyboards scroll it
    return () => merge.destroy();
  }, [path, before, after]);
  return <div ref={parent} style={{ maxHeight: "65vh", overflow: "auto" }} />;
}
