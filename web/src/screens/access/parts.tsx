import { Anchor, Button, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { IconDownload } from "@tabler/icons-react";
import { useState } from "react";
import { Link } from "wouter";
import { download, type Schemas } from "../../api/client";
import { useCan } from "../../app/me";
import { UserLink } from "../tenants/UserLink";

type Subject = { kind?: string; subject?: string; user?: string; client_id?: string; claim?: string; value?: string };

/** Who holds something, as text. */
export function nameOf(s: Subject): string {
  if (s.claim !== undefined) return `whoever has ${s.claim} = ${s.value ?? ""} in their token`;
  if (s.client_id && !s.user) return `client ${s.client_id}`;
  return s.subject ?? `erased user ${s.user ?? ""}`;
}

/** Who holds something, with a link to where it is changed. */
export function Who({ of, tenant }: { of: Subject; tenant: string }) {
  const can = useCan(tenant);
  const to = `/tenants/${encodeURIComponent(tenant)}`;
  if (of.claim !== undefined && can("mapping:list"))
    return (
      <Anchor component={Link} size="sm" href={`${to}/mappings`}>
        {nameOf(of)}
      </Anchor>
    );
  if (of.user && can("member:read"))
    return (
      <Anchor component={Link} size="sm" href={`${to}/members?member=${encodeURIComponent(of.user)}`}>
        {nameOf(of)}
      </Anchor>
    );
  if (of.user) return <UserLink user={of.user}>{nameOf(of)}</UserLink>;
  return <>{nameOf(of)}</>;
}

/** One way in which something is held, in words. */
export function pathText(p: Schemas["AccessPath"]): string {
  const roles = p.roles ?? [];
  if (p.kind === "scope") return `scope ${p.scope ?? ""} of the client, where its token carries it`;
  if (p.kind === "direct") return roles.length > 0 ? `role ${roles[0]}, assigned` : "assigned";
  return `role ${roles[0]}, which inherits ${roles.slice(1).join(", which inherits ")}`;
}

export const pathsText = (paths: Schemas["AccessPath"][] | null | undefined) =>
  (paths ?? []).map(pathText).join("; or ");

/** Downloads a list of the API with all its items, of one moment. */
export function Export({ path, name }: { path: string; name: string }) {
  const [busy, setBusy] = useState(false);
  const get = async (accept: string, file: string) => {
    setBusy(true);
    try {
      await download(path, file, { headers: { Accept: accept } });
    } catch (error) {
      notifications.show({ color: "red", title: "The export failed", message: String((error as Error).message) });
    }
    setBusy(false);
  };
  return (
    <Button.Group>
      <Button
        size="xs"
        variant="default"
        leftSection={<IconDownload size={14} />}
        disabled={busy}
        onClick={() => void get("text/csv", `${name}.csv`)}
      >
        CSV
      </Button>
      <Button
        size="xs"
        variant="default"
        disabled={busy}
        aria-label="Export as JSON lines"
        onClick={() => void get("application/jsonl", `${name}.jsonl`)}
      >
        JSON lines
      </Button>
    </Button.Group>
  );
}

/** A moment in the viewer's zone, as the URL has it: RFC 3339, or empty. */
export function Moment({
  label,
  value,
  onChange,
  placeholder,
}: {
  label: string;
  value: string;
  onChange: (v: string) => void;
  placeholder?: string;
}) {
  const at = value ? new Date(value) : undefined;
  const local =
    at && !Number.isNaN(at.getTime())
      ? new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16)
      : "";
  return (
    <TextInput
      type="datetime-local"
      label={label}
      description={placeholder}
      inputWrapperOrder={["label", "input", "description", "error"]}
      value={local}
      onChange={(e) => {
        const v = e.currentTarget.value;
        const moment = v ? new Date(v) : undefined;
        onChange(moment && !Number.isNaN(moment.getTime()) ? moment.toISOString() : "");
      }}
    />
  );
}

export const clipped = {
  display: "block",
  overflow: "hidden",
  textOverflow: "ellipsis",
  whiteSpace: "nowrap",
} as const;
