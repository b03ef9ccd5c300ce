import { Checkbox, Group, Paper, Select, Stack, Text, Title } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useState } from "react";
import { $api, type Schemas } from "../../api/client";
import { usePages } from "../../api/pages";
import { useCan } from "../../app/me";
import { DataTable } from "../../components/DataTable";
import { Empty, Failure, Loaded, Loading } from "../../components/states";
import { Time } from "../../components/Time";
import { useParam } from "../tenants/params";
import { clipped, Export, Moment, pathsText } from "./parts";

/** What a member holds in the tenant, or, for people of the platform, in every tenant. */
export function Held({ tenant }: { tenant: string }) {
  const platform = useCan()("access:read");
  const [user, setUser] = useParam("user");
  const [all, setAll] = useParam("everywhere");
  const [at, setAt] = useParam("at");
  const [typed, setTyped] = useState("");
  const [search] = useDebouncedValue(typed.trim(), 150);
  const members = $api.useQuery("get", "/v1/tenants/{tenant}/members", {
    params: { path: { tenant }, query: { limit: 20, ...(search ? { search } : {}) } },
  });
  const options = (members.data?.items ?? []).map((m) => ({ value: m.user, label: m.subject }));
  const known = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/members/{user}",
    { params: { path: { tenant, user } } },
    { enabled: user !== "" && !options.some((o) => o.value === user) },
  );
  if (user && !options.some((o) => o.value === user))
    options.unshift({ value: user, label: known.data?.subject ?? user });
  return (
    <>
      <Group align="flex-end" gap="xs">
        <Select
          label="Member"
          placeholder="Subject begins with"
          data={options}
          value={user || null}
          onChange={(u) => setUser(u ?? "")}
          searchable
          onSearchChange={(s) => setTyped(options.some((o) => o.label === s) ? "" : s)}
          filter={({ options: found }) => found}
          nothingFoundMessage="No member's subject begins with that"
          w={{ base: "100%", xs: 260 }}
        />
        <Moment label="At (empty: now)" value={at} onChange={setAt} />
        {platform && (
          <Checkbox
            label="In every tenant"
            checked={all === "1"}
            onChange={(e) => setAll(e.currentTarget.checked ? "1" : "")}
            mb={8}
          />
        )}
        {platform && user && all === "1" && (
          <Export
            path={`/v1/users/${encodeURIComponent(user)}/access${at ? `?at=${encodeURIComponent(at)}` : ""}`}
            name={`access-of-${user}`}
          />
        )}
      </Group>
      {!user ? (
        <Empty title="Choose a member">What they hold, each role and permission with the way by which they do.</Empty>
      ) : platform && all === "1" ? (
        <Everywhere user={user} at={at} />
      ) : (
        <InTenant tenant={tenant} user={user} at={at} />
      )}
    </>
  );
}

function InTenant({ tenant, user, at }: { tenant: string; user: string; at: string }) {
  const query = $api.useQuery("get", "/v1/tenants/{tenant}/members/{user}/access", {
    params: { path: { tenant, user }, query: at ? { at } : {} },
  });
  return <Loaded query={query}>{(held) => <OneTenant held={held} />}</Loaded>;
}

function Everywhere({ user, at }: { user: string; at: string }) {
  const query = usePages("/v1/users/{user}/access", { params: { path: { user }, query: at ? { at } : {} } });
  if (query.isPending) return <Loading />;
  if (!query.data) return <Failure error={query.error} retry={() => void query.refetch()} />;
  const items = query.data.pages.flatMap((p) => p.items ?? []);
  if (items.length === 0) return <Empty title="They belong to no tenant" />;
  return (
    <Stack>
      {items.map((held) => (
        <OneTenant key={held.tenant} held={held} />
      ))}
    </Stack>
  );
}

function OneTenant({ held }: { held: Schemas["UserAccessBody"] }) {
  const rows = [
    ...(held.roles ?? []).map((h) => ({ ...h, of: "role" })),
    ...(held.permissions ?? []).map((h) => ({ ...h, of: "permission" })),
  ];
  return (
    <Paper withBorder p="md" component="section" aria-label={`Held in ${held.tenant}`}>
      <Title order={2} mb="xs">
        In {held.tenant}
      </Title>
      {!held.in_force ? (
        <Text size="sm">Nothing is held: {(held.why ?? []).map((w) => w.replaceAll("_", " ")).join(", ")}.</Text>
      ) : rows.length === 0 ? (
        <Text size="sm">The membership is in force, and has no role.</Text>
      ) : (
        <DataTable
          label={`Held in ${held.tenant}`}
          rows={rows}
          rowKey={(r) => `${r.of} ${r.name}`}
          maxHeight="50vh"
          columns={[
            { key: "of", header: "What", cell: (r) => r.of, width: 110 },
            { key: "name", header: "Name", cell: (r) => r.name },
            {
              key: "why",
              header: "Why",
              cell: (r) => (
                <span style={{ ...clipped, maxWidth: 460 }} title={pathsText(r.paths)}>
                  {pathsText(r.paths)}
                </span>
              ),
            },
            { key: "end", header: "Ends", cell: (r) => (r.expires_at ? <Time at={r.expires_at} /> : "no end") },
          ]}
        />
      )}
    </Paper>
  );
}
