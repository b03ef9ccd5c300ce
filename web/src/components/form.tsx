// Forms: a dialog that loses nothing, and the fields that Mantine does not have.
import { Button, Group, JsonInput, Modal, NumberInput, Select, Stack, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { type ReactNode, useState } from "react";
import { isProblem } from "../api/problem";
import { Failure } from "./states";

/** A key for an Idempotency-Key. crypto.randomUUID needs https, which a console inside a network may not have. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** Notifies of a success, shortly. */
export const done = (message: string) => notifications.show({ message, color: "teal", autoClose: 4000 });

/** The message of a problem for a field by JSON pointer, with those of its parts. */
export type FieldErrors = (pointer: string) => string | undefined;

/**
 * A form in a dialog. The problem's errors stand at the fields whose children ask for them by `at("/name")`; whatever no field
 * asks for is shown above the buttons. The dialog closes when `submit` has resolved to other than false, by its buttons or by
 * Escape, and by no click beside it.
 */
export function FormModal({
  title,
  submitLabel,
  submit,
  onClose,
  size = "lg",
  disabled = false,
  children,
}: {
  title: string;
  submitLabel: string;
  /** With a key of this opening, for POSTs. */
  submit: (key: string) => Promise<unknown>;
  onClose: () => void;
  size?: string;
  disabled?: boolean;
  children: (at: FieldErrors) => ReactNode;
}) {
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const [key] = useState(newKey);
  const claimed = new Set<string>();
  const errors = isProblem(error) ? (error.problem.errors ?? []) : [];
  const at: FieldErrors = (pointer) => {
    const own = errors.filter((e) => e.pointer === pointer || e.pointer?.startsWith(`${pointer}/`));
    for (const e of own) claimed.add(e.pointer!);
    return own.length === 0
      ? undefined
      : own
          .map((e) => (e.pointer === pointer ? e.detail : `${e.pointer!.slice(pointer.length + 1)}: ${e.detail}`))
          .join("; ");
  };
  const fields = children(at);
  const elsewhere = error !== undefined && (errors.length === 0 || errors.some((e) => !claimed.has(e.pointer ?? "")));
  const run = async () => {
    setBusy(true);
    setError(undefined);
    try {
      if ((await submit(key)) !== false) onClose();
    } catch (failed) {
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Modal
      opened
      onClose={() => !busy && onClose()}
      title={title}
      size={size}
      closeOnClickOutside={false}
      closeButtonProps={{ "aria-label": "Close" }}
    >
      <form
        noValidate
        onSubmit={(e) => {
          e.preventDefault();
          e.stopPropagation();
          if (!busy && !disabled) void run();
        }}
      >
        <Stack>
          {fields}
          {elsewhere && <Failure error={error} />}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose} disabled={busy}>
              Cancel
            </Button>
            <Button type="submit" loading={busy} disabled={disabled}>
              {submitLabel}
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}

const pad = (n: number) => String(n).padStart(2, "0");

/** A moment as `datetime-local` has it, in the viewer's zone. */
function localOf(at: string | undefined): string {
  const d = at ? new Date(at) : undefined;
  if (!d || Number.isNaN(d.getTime())) return "";
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}T${pad(d.getHours())}:${pad(d.getMinutes())}`;
}

/** A moment in the viewer's zone; the value is RFC 3339 in UTC. What the person does not touch stays to the nanosecond. */
export function DateTimeInput({
  value,
  onChange,
  ...field
}: {
  label: string;
  description?: string;
  error?: string;
  value: string | undefined;
  onChange: (at: string | undefined) => void;
  min?: string;
  size?: string;
}) {
  return (
    <TextInput
      type="datetime-local"
      {...field}
      value={localOf(value)}
      onChange={(e) => {
        const local = e.currentTarget.value;
        const at = local ? new Date(local) : undefined;
        onChange(at && !Number.isNaN(at.getTime()) ? at.toISOString() : undefined);
      }}
    />
  );
}

const units = [
  { value: "86400", label: "days" },
  { value: "3600", label: "hours" },
  { value: "60", label: "minutes" },
];

/** "8 hours", as DurationInput shows it. */
export function duration(seconds: number): string {
  const unit = units.find((u) => seconds % Number(u.value) === 0);
  if (!unit) return `${seconds} seconds`;
  const n = seconds / Number(unit.value);
  return `${n} ${n === 1 ? unit.label.slice(0, -1) : unit.label}`;
}

/** A duration of whole minutes, hours or days, in seconds. */
export function DurationInput({
  label,
  value,
  onChange,
  error,
  description,
}: {
  label: string;
  value: number;
  onChange: (seconds: number) => void;
  error?: string;
  description?: string;
}) {
  const [unit, setUnit] = useState(() => units.find((u) => value % Number(u.value) === 0)?.value ?? "60");
  return (
    <Group align="flex-end" gap="xs" wrap="nowrap">
      <NumberInput
        label={label}
        description={description}
        min={1}
        allowDecimal={false}
        hideControls
        value={Math.round(value / Number(unit)) || ""}
        onChange={(n) => onChange(Number(n) * Number(unit))}
        error={error}
        style={{ flex: 1 }}
      />
      <Select
        aria-label={`Unit of ${label.toLowerCase()}`}
        data={units}
        value={unit}
        allowDeselect={false}
        w={110}
        onChange={(u) => {
          if (!u) return;
          onChange(Math.round(value / Number(unit)) * Number(u));
          setUnit(u);
        }}
      />
    </Group>
  );
}

export type Attributes = Record<string, unknown>;

/** Text of attributes as JSON, and what it means; `undefined` while it is no object. */
export function parseAttributes(text: string): Attributes | undefined {
  if (text.trim() === "") return {};
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Attributes) : undefined;
  } catch {
    return undefined;
  }
}

export const attributesText = (value: Attributes | undefined) =>
  value && Object.keys(value).length > 0 ? JSON.stringify(value, null, 2) : "";

/** Attributes as JSON. The parent holds the text, so that what is not valid yet stays. */
export function AttributesInput({
  text,
  onChange,
  error,
  description = "A JSON object. Services declare in their manifests which attributes there are. No personal data.",
}: {
  text: string;
  onChange: (text: string) => void;
  error?: string;
  description?: string;
}) {
  return (
    <JsonInput
      label="Attributes"
      description={description}
      placeholder='{"department": "sales"}'
      autosize
      minRows={2}
      maxRows={12}
      formatOnBlur
      value={text}
      onChange={onChange}
      error={error ?? (parseAttributes(text) ? undefined : 'Must be a JSON object, as in {"department": "sales"}')}
      styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)" } }}
    />
  );
}
