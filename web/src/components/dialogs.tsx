// Dialogs that code waits for: a confirmation, with a reason where one is asked for, and the resolution of a conflict.
import { Alert, Button, Group, Modal, Radio, Stack, Table, Text, Textarea, TextInput } from "@mantine/core";
import { createContext, type ReactNode, useCallback, useContext, useRef, useState } from "react";
import type { Versioned } from "../api/client";
import { isProblem } from "../api/problem";
import { conflictsOf } from "./conflicts";
import { Failure } from "./states";

export interface Confirmation {
  title: string;
  /** What will happen, to whom. */
  children: ReactNode;
  confirm: string;
  danger?: boolean;
  /** Asks for a reason, which is recorded. */
  reason?: "optional" | "required";
  /** The person must type this first: for what cannot be undone. */
  type?: string;
  /** Runs on confirmation; where it fails, the dialog stays and shows why. */
  run: (reason: string) => Promise<unknown>;
}

export interface Edit<T extends object> {
  title: string;
  /** What the person began with, and its tag. */
  base: Versioned<T>;
  mine: T;
  save: (value: T, etag: string) => Promise<unknown>;
  reload: () => Promise<Versioned<T>>;
}

interface Dialogs {
  /** Resolves to whether the person confirmed and `run` succeeded. */
  confirm: (c: Confirmation) => Promise<boolean>;
  /**
   * Saves an edit on condition that nobody else changed the resource since. Where somebody did, shows both changes, and saves
   * what the person chooses. Resolves to whether it is saved; other errors are thrown.
   */
  saveEdit: <T extends object>(e: Edit<T>) => Promise<boolean>;
}

const Context = createContext<Dialogs | undefined>(undefined);

export function useDialogs(): Dialogs {
  const dialogs = useContext(Context);
  if (!dialogs) throw new Error("useDialogs is used outside of DialogsProvider");
  return dialogs;
}

interface OpenConflict {
  title: string;
  base: Record<string, unknown>;
  theirs: Record<string, unknown>;
  mine: Record<string, unknown>;
  done: (merged: Record<string, unknown> | undefined) => void;
}

export function DialogsProvider({ children }: { children: ReactNode }) {
  const [confirmation, setConfirmation] = useState<
    (Confirmation & { done: (ok: boolean) => void; number: number }) | undefined
  >();
  const number = useRef(0);
  const [conflict, setConflict] = useState<OpenConflict | undefined>();

  const confirm = useCallback(
    (c: Confirmation) => new Promise<boolean>((done) => setConfirmation({ ...c, done, number: ++number.current })),
    [],
  );

  const saveEdit = useCallback(async <T extends object>(e: Edit<T>) => {
    let { value: mine, etag, base } = { value: e.mine, etag: e.base.etag, base: e.base.value };
    for (;;) {
      try {
        await e.save(mine, etag);
        return true;
      } catch (error) {
        if (!isProblem(error, 412)) throw error;
      }
      const theirs = await e.reload();
      const merged = await new Promise<Record<string, unknown> | undefined>((done) =>
        setConflict({
          title: e.title,
          base: base as Record<string, unknown>,
          theirs: theirs.value as Record<string, unknown>,
          mine: mine as Record<string, unknown>,
          done,
        }),
      );
      setConflict(undefined);
      if (!merged) return false;
      ({ mine, etag, base } = { mine: merged as T, etag: theirs.etag, base: theirs.value });
    }
  }, []);

  return (
    <Context.Provider value={{ confirm, saveEdit }}>
      {children}
      {confirmation && (
        <ConfirmModal
          key={confirmation.number} // one that follows another at once begins anew
          {...confirmation}
          done={(ok) => {
            setConfirmation(undefined);
            confirmation.done(ok);
          }}
        />
      )}
      {conflict && <ConflictModal {...conflict} />}
    </Context.Provider>
  );
}

function ConfirmModal(c: Confirmation & { done: (ok: boolean) => void }) {
  const [reason, setReason] = useState("");
  const [typed, setTyped] = useState("");
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const ready = (c.reason !== "required" || reason.trim() !== "") && (!c.type || typed === c.type);
  const run = async () => {
    setBusy(true);
    try {
      await c.run(reason.trim());
      c.done(true);
    } catch (failed) {
      setError(failed);
      setBusy(false);
    }
  };
  return (
    <Modal opened onClose={() => c.done(false)} title={c.title} closeButtonProps={{ "aria-label": "Close" }}>
      <form
        onSubmit={(e) => {
          e.preventDefault();
          if (ready) void run();
        }}
      >
        <Stack>
          <Text component="div" size="sm">
            {c.children}
          </Text>
          {c.reason && (
            <Textarea
              label="Reason"
              description="Recorded in the audit log."
              required={c.reason === "required"}
              value={reason}
              onChange={(e) => setReason(e.currentTarget.value)}
              data-autofocus
            />
          )}
          {c.type && (
            <TextInput
              label={`Type ${c.type} to confirm`}
              value={typed}
              onChange={(e) => setTyped(e.currentTarget.value)}
              autoComplete="off"
            />
          )}
          {error !== undefined && <Failure error={error} />}
          <Group justify="flex-end">
            <Button variant="default" onClick={() => c.done(false)}>
              Cancel
            </Button>
            <Button type="submit" color={c.danger ? "red" : undefined} disabled={!ready} loading={busy}>
              {c.confirm}
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}

function ConflictModal({ title, base, theirs, mine, done }: OpenConflict) {
  const fields = conflictsOf(base, theirs, mine);
  const [choice, setChoice] = useState<Record<string, "theirs" | "mine">>(
    Object.fromEntries(fields.map((f) => [f.field, f.preferred])),
  );
  const show = (v: unknown) => (
    <code style={{ whiteSpace: "pre-wrap" }}>{v === undefined ? "–" : JSON.stringify(v, null, 1)}</code>
  );
  return (
    <Modal opened size="xl" onClose={() => done(undefined)} title={title} closeButtonProps={{ "aria-label": "Close" }}>
      <Stack>
        <Alert color="yellow" title="Somebody else was first" role="alert">
          It changed while you edited it. Choose what to save for each field.
        </Alert>
        <Table>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Field</Table.Th>
              <Table.Th>Before</Table.Th>
              <Table.Th>Theirs, saved now</Table.Th>
              <Table.Th>Yours</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {fields.map((f) => (
              <Table.Tr key={f.field}>
                <Table.Th scope="row">
                  {f.field}
                  {f.both && (
                    <Text size="xs" c="dimmed">
                      both changed
                    </Text>
                  )}
                </Table.Th>
                <Table.Td>{show(f.base)}</Table.Td>
                {(["theirs", "mine"] as const).map((side) => (
                  <Table.Td key={side}>
                    <Radio
                      name={`conflict-${f.field}`}
                      checked={choice[f.field] === side}
                      onChange={() => setChoice({ ...choice, [f.field]: side })}
                      label={show(f[side])}
                    />
                  </Table.Td>
                ))}
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
        <Group justify="flex-end">
          <Button variant="default" onClick={() => done(undefined)}>
            Back to editing
          </Button>
          <Button
            onClick={() =>
              done({
                ...mine,
                ...Object.fromEntries(fields.map((f) => [f.field, choice[f.field] === "mine" ? f.mine : f.theirs])),
              })
            }
          >
            Save this
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
