// CSV of RFC 4180, with the separators that spreadsheets write, and with the line of each record for messages.

export interface CSVRecord {
  /** Line of the text on which it begins, from 1. */
  line: number;
  cells: string[];
}

export interface CSVText {
  records: CSVRecord[];
  /** A quote that is never closed: the line on which it begins. */
  unclosed?: number;
}

/** The separator of a text: what its first line has most of. */
export function separatorOf(text: string): string {
  const first = text.slice(0, 4096).split(/\r?\n/, 1)[0] ?? "";
  const counts = [",", ";", "\t"].map((s) => ({ s, n: first.split(s).length }));
  return counts.reduce((best, c) => (c.n > best.n ? c : best)).s;
}

/** Reads records. Empty lines are skipped; a quoted cell can have separators, line breaks and doubled quotes. */
export function parseCSV(source: string, separator = separatorOf(source)): CSVText {
  const text = source.replace(/^\uFEFF/, "");
  const records: CSVRecord[] = [];
  let cells: string[] = [];
  let line = 1;
  let began = 1;
  let i = 0;
  const end = () => {
    if (cells.length > 1 || cells[0] !== "") records.push({ line: began, cells });
    cells = [];
    began = line;
  };
  while (i < text.length) {
    let cell = "";
    if (text[i] === '"') {
      const opened = line;
      i++;
      for (;;) {
        const close = text.indexOf('"', i);
        if (close < 0) return { records, unclosed: opened };
        const part = text.slice(i, close);
        for (const c of part) if (c === "\n") line++;
        cell += part;
        i = close + 1;
        if (text[i] !== '"') break;
        cell += '"';
        i++;
      }
    }
    const start = i;
    while (i < text.length && text[i] !== separator && text[i] !== "\n" && text[i] !== "\r") i++;
    cell += text.slice(start, i);
    cells.push(cell);
    if (text[i] === separator) {
      i++;
      if (i < text.length) continue;
      cells.push("");
    }
    if (text[i] === "\r") i++;
    if (text[i] === "\n") i++;
    line++;
    end();
  }
  return { records };
}

/** One record as text, quoted where it must be. */
export function csvLine(cells: readonly string[]): string {
  return cells.map((c) => (/[",\r\n;\t]|^\s|\s$/.test(c) ? `"${c.replaceAll('"', '""')}"` : c)).join(",");
}

/**
 * A cell that no spreadsheet takes for a formula: what begins like one gets an apostrophe before it (OWASP, CSV injection). For
 * reports that people open, not for files that are imported again.
 */
export const inert = (cell: string) => (/^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell);
