import { Alert, Button, Code, Group, Select, Stack, Text, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { IconPlayerPause, IconPlayerPlay, IconRefresh } from "@tabler/icons-react";
import { lazy, Suspense, useState } from "react";
import { $api } from "../../api/client";
import { usePages } from "../../api/pages";
import { isProblem } from "../../api/problem";
import { navigate } from "../../app/location";
import { DataTable, PagedTable } from "../../components/DataTable";
import { DateTimeInput } from "../../components/form";
import { Page } from "../../components/Page";
import { Empty, Failure, Loading } from "../../components/states";
import { ranges, useFilters } from "./filters";
import { columns, type Decision } from "./rows";
import { useTail } from "./useTail";

const Summary = lazy(() => import("./Summary"));

const open = (d: Decision) => navigate(`/decisions/${encodeURIComponent(d.decision)}`);

export default function Decisions() {
  const filters = useFilters();
  const { query, tenant, ready } = filters;
  const live = filters.get("live") !== "";
  const paused = filters.get("live") === "paused";
  const { from, to } = query;
  const summary = $api.useQuery(
    "get",
    "/v1/decisions/summary",
    { params: { query: { ...(tenant ? { tenant } : {}), ...(from ? { from } : {}), ...(to ? { to } : {}) } } },
    { enabled: ready && filters.range !== "all", refetchInterval: live && !paused ? 15_000 : false },
  );
  const off = isProblem(summary.error, "decisions_off");
  return (
    <Page
      title="Decisions"
      description={tenant ? `About ${tenant}, its members and its clients` : "Of all gateways and tenants"}
      actions={
        !off && (
          <>
            <Button
              variant={live ? "filled" : "default"}
              aria-pressed={live}
              leftSection={<IconPlayerPlay size={16} />}
              onClick={() => filters.set({ live: live ? undefined : "on" })}
            >
              Live
            </Button>
            {!live && (
              <Button variant="default" leftSection={<IconRefresh size={16} />} onClick={filters.refresh}>
                Refresh
              </Button>
            )}
          </>
        )
      }
    >
      {off ? (
        <Off />
      ) : (
        <>
          {summary.data && (
            <Suspense fallback={<Loading rows={4} />}>
              <Summary
                summary={summary.data}
                code={filters.get("code")}
                choose={(code) => filters.set({ code, outcome: undefined })}
              />
            </Suspense>
          )}
          {summary.isError && (
            <Text size="sm" c="dimmed">
              Not counted: {summary.error.detail ?? summary.error.title}
            </Text>
          )}
          <Filters filters={filters} live={live} />
          {live ? <LiveTail filters={filters} paused={paused} /> : <Found query={query} ready={ready} />}
        </>
      )}
    </Page>
  );
}

function Off() {
  return (
    <Empty title="Decisions are not stored here">
      Each decision has an id, <Code>X-Decision-ID</Code>, and is in the log of the service. To search them here, and to
      explain them by their id, set <Code>DECISIONS_DATABASE_URL</Code>. What would be decided now can be explained
      without it, in the playground.
    </Empty>
  );
}

type FiltersOf = ReturnType<typeof useFilters>;

function TextFilter({ name, label, filters }: { name: string; label: string; filters: FiltersOf }) {
  const stored = filters.get(name);
  const [typed, setTyped] = useState(stored);
  const [seen, setSeen] = useState(stored);
  if (seen !== stored) {
    setSeen(stored); // changed elsewhere, as by a click in the chart
    setTyped(stored);
  }
  const save = useDebouncedCallback((value: string) => filters.set({ [name]: value.trim() || undefined }), 300);
  return (
    <TextInput
      size="xs"
      label={label}
      value={typed}
      onChange={(e) => {
        setTyped(e.currentTarget.value);
        save(e.currentTarget.value);
      }}
    />
  );
}

function Filters({ filters, live }: { filters: FiltersOf; live: boolean }) {
  const [id, setId] = useState("");
  return (
    <Group gap="xs" align="flex-end" component="search">
      <TextFilter name="subject" label="Subject" filters={filters} />
      <TextFilter name="client_id" label="Client" filters={filters} />
      <TextFilter name="code" label="Code of a reason" filters={filters} />
      <Select
        size="xs"
        label="Outcome"
        w={120}
        placeholder="any"
        clearable
        clearButtonProps={{ "aria-label": "Any outcome" }}
        data={["allowed", "denied"]}
        value={filters.get("outcome") || null}
        onChange={(outcome) => filters.set({ outcome: outcome ?? undefined })}
      />
      {!live && (
        <Select
          size="xs"
          label="Time"
          w={160}
          data={ranges}
          allowDeselect={false}
          value={filters.range}
          onChange={(range) => {
            filters.set({
              range: range ?? undefined,
              ...(range === "between" ? {} : { from: undefined, to: undefined }),
            });
            filters.refresh();
          }}
        />
      )}
      {!live && filters.range === "between" && (
        <>
          <DateTimeInput
            size="xs"
            label="From"
            value={filters.get("from") || undefined}
            onChange={(from) => filters.set({ from, range: "between" })}
          />
          <DateTimeInput
            size="xs"
            label="Before"
            value={filters.get("to") || undefined}
            onChange={(to) => filters.set({ to, range: "between" })}
          />
        </>
      )}
      <form
        onSubmit={(e) => {
          e.preventDefault();
          const found = /([^/]+)\/*$/.exec(id.trim())?.[1];
          if (found) navigate(`/decisions/${encodeURIComponent(found)}`);
        }}
      >
        <TextInput
          size="xs"
          label="Decision id or URL"
          placeholder="Enter opens it"
          value={id}
          onChange={(e) => setId(e.currentTarget.value)}
        />
      </form>
    </Group>
  );
}

function Found({ query, ready }: { query: FiltersOf["query"]; ready: boolean }) {
  const pages = usePages("/v1/decisions", { params: { query } }, { enabled: ready });
  return (
    <PagedTable
      label="Decisions"
      query={pages}
      columns={columns()}
      rowKey={(d) => d.decision}
      onRow={open}
      maxHeight="56vh"
      empty={
        <Empty title="No decision matches">
          Widen the time, or remove a filter. A subject and a client match as a whole. What a gateway has just asked
          appears within a second or two.
        </Empty>
      }
    />
  );
}

function LiveTail({ filters, paused }: { filters: FiltersOf; paused: boolean }) {
  const tail = useTail(filters.query, filters.ready && !paused);
  return (
    <Stack gap="xs">
      <Group justify="space-between">
        <Text size="sm" c="dimmed" role="status">
          {paused ? "Paused" : "Live, each 2 seconds"} · {tail.arrived.toLocaleString()} arrived
          {tail.rows.length >= 500 ? " · the newest 500 are shown" : ""}
        </Text>
        <Button
          size="xs"
          variant="default"
          leftSection={paused ? <IconPlayerPlay size={14} /> : <IconPlayerPause size={14} />}
          onClick={() => filters.set({ live: paused ? "on" : "paused" })}
        >
          {paused ? "Go on" : "Pause"}
        </Button>
      </Group>
      {tail.skipped && (
        <Alert color="yellow">More decisions arrive than are shown here. Filter them, or search by time.</Alert>
      )}
      {tail.error !== undefined && <Failure error={tail.error} />}
      {tail.loading ? (
        <Loading />
      ) : tail.rows.length === 0 ? (
        <Empty title="No decision yet">Each one that matches the filters appears here.</Empty>
      ) : (
        <DataTable
          label="Decisions"
          columns={columns(tail.fresh)}
          rows={tail.rows}
          rowKey={(d) => d.decision}
          onRow={open}
          maxHeight="56vh"
        />
      )}
    </Stack>
  );
}
