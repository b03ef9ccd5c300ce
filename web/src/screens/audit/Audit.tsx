import { Button, Group, Select, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { IconDownload, IconShieldCheck } from "@tabler/icons-react";
import { useMemo, useState } from "react";
import { useSearchParams } from "wouter";
import { usePages } from "../../api/pages";
import { useCan, useMe } from "../../app/me";
import { useScope } from "../../app/scope";
import { type Column, PagedTable } from "../../components/DataTable";
import { fieldName } from "../../components/Diff";
import { DateTimeInput } from "../../components/form";
import { Page } from "../../components/Page";
import { Empty } from "../../components/states";
import { Time } from "../../components/Time";
import { type Entry, EntryDrawer, idOf } from "./Entry";
import { Export } from "./Export";
import { type NameOf, useNames } from "./names";
import { Verification } from "./Verification";

const texts = [
  { name: "actor", label: "Who", placeholder: "id of a user or client" },
  { name: "action", label: "Action", placeholder: "as in member:create" },
  { name: "object", label: "Object", placeholder: "id or name" },
] as const;
const kinds = [
  "tenant",
  "role",
  "user",
  "member",
  "request",
  "mapping",
  "service",
  "client",
  "policy",
  "event",
  "signal",
  "instance",
  "assertion_key",
  "scim_user",
  "scim_group",
];
const filters = ["actor", "action", "object", "kind", "from", "until"];

/** The fields that an entry has changed, in a few words. */
function changesOf(e: Entry): string {
  if (e.before === undefined || e.before === null) return "created";
  if (e.after === undefined || e.after === null) return "deleted";
  const names = (e.changes ?? []).map((c) => fieldName(c.field));
  if (names.length === 0) return "no field";
  return names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");
}

function columns(nameOf: NameOf): Column<Entry>[] {
  return [
    { key: "action", header: "Action", cell: (e) => e.action },
    { key: "who", header: "Who", cell: (e) => nameOf(e.actor, e.actor_kind === "user") },
    {
      key: "object",
      header: "Object",
      cell: (e) => `${e.kind.replace("_", " ")} ${nameOf(e.object, e.kind === "member" || e.kind === "user")}`,
    },
    { key: "tenant", header: "Tenant", cell: (e) => e.chain || "platform" },
    { key: "changes", header: "Changed", cell: changesOf },
    { key: "at", header: "Time", align: "right", cell: (e) => <Time at={e.at} /> },
  ];
}

export default function Audit() {
  const { tenant } = useScope();
  const me = useMe();
  const can = useCan(tenant);
  const [search, setSearch] = useSearchParams();
  const [verifying, setVerifying] = useState(false);
  const [exporting, setExporting] = useState(false);
  const set = (name: string, value: string | undefined | null) =>
    setSearch(
      (was) => {
        const next = new URLSearchParams(was);
        if (value) next.set(name, value);
        else next.delete(name);
        return next;
      },
      { replace: true },
    );
  const text = search.toString();
  const query = useMemo(() => {
    const params = new URLSearchParams(text);
    const q: Record<string, string> = tenant ? { tenant } : {};
    for (const name of filters) {
      const value = params.get(name);
      if (value) q[name] = value;
    }
    return q as { tenant?: string };
  }, [text, tenant]);
  const pages = usePages("/v1/audit", { params: { query } }, { enabled: me.isSuccess });
  const entries = useMemo(() => pages.data?.pages.flatMap((p) => p.items ?? []) ?? [], [pages.data]);
  const nameOf = useNames(entries, tenant);
  const chosen = entries.find((e) => idOf(e) === search.get("entry"));
  return (
    <Page
      title="Audit"
      description={
        tenant
          ? `Changes of ${tenant}, the newest first`
          : "Changes of the platform and of all tenants, the newest first"
      }
      actions={
        <>
          {can("audit-chain:read") && (
            <Button
              variant="default"
              leftSection={<IconShieldCheck size={16} />}
              disabled={verifying}
              onClick={() => setVerifying(true)}
            >
              Verify the chain
            </Button>
          )}
          <Button
            variant="default"
            leftSection={<IconDownload size={16} />}
            disabled={exporting}
            onClick={() => setExporting(true)}
          >
            Export
          </Button>
        </>
      }
    >
      {verifying && <Verification onClose={() => setVerifying(false)} />}
      {exporting && <Export query={query} onClose={() => setExporting(false)} />}
      <Group gap="xs" align="flex-end" component="search">
        {texts.map((t) => (
          <TextFilter key={t.name} {...t} value={search.get(t.name) ?? ""} set={(value) => set(t.name, value)} />
        ))}
        <Select
          size="xs"
          w={150}
          label="Kind of object"
          placeholder="any"
          searchable
          clearable
          clearButtonProps={{ "aria-label": "Any kind" }}
          data={kinds.map((value) => ({ value, label: value.replace("_", " ") }))}
          value={search.get("kind")}
          onChange={(value) => set("kind", value)}
        />
        <DateTimeInput
          size="xs"
          label="From"
          value={search.get("from") ?? undefined}
          onChange={(at) => set("from", at)}
        />
        <DateTimeInput
          size="xs"
          label="Before"
          value={search.get("until") ?? undefined}
          onChange={(at) => set("until", at)}
        />
      </Group>
      <PagedTable
        label="Audit log"
        query={pages}
        columns={columns(nameOf)}
        rowKey={idOf}
        onRow={(e) => set("entry", idOf(e))}
        empty={
          filters.some((f) => search.get(f)) ? (
            <Empty title="No entry matches">
              Widen the time, or remove a filter. All but the time match as a whole.
            </Empty>
          ) : (
            <Empty title="Nothing was changed yet">
              Each change of the directory, the clients and the policy is recorded here.
            </Empty>
          )
        }
      />
      {chosen && <EntryDrawer entry={chosen} nameOf={nameOf} onClose={() => set("entry", undefined)} />}
    </Page>
  );
}

function TextFilter({
  label,
  placeholder,
  value,
  set,
}: {
  label: string;
  placeholder: string;
  value: string;
  set: (value: string) => void;
}) {
  const [typed, setTyped] = useState(value);
  const [seen, setSeen] = useState(value);
  if (seen !== value) {
    setSeen(value);
    setTyped(value);
  }
  const save = useDebouncedCallback((v: string) => set(v.trim()), 300);
  return (
    <TextInput
      size="xs"
      label={label}
      placeholder={placeholder}
      value={typed}
      onChange={(e) => {
        setTyped(e.currentTarget.value);
        save(e.currentTarget.value);
      }}
    />
  );
}
