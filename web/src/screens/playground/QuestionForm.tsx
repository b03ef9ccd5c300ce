import { Autocomplete, PasswordInput, SegmentedControl, SimpleGrid, Stack, Text, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useEffect } from "react";
import { $api } from "../../api/client";
import { useCan } from "../../app/me";
import type { FieldErrors } from "../../components/form";
import type { Asked } from "./question";

const id = /^[0-9a-f]{8}-[0-9a-f-]{27}$/i;

/** Who asks for what: a user, a token or a recorded decision. */
export function QuestionForm({
  asked,
  onChange,
  at,
}: {
  asked: Asked;
  onChange: (asked: Asked) => void;
  at: FieldErrors;
}) {
  const set = (change: Partial<Asked>) => onChange({ ...asked, ...change });
  return (
    <Stack gap="xs">
      <SegmentedControl
        aria-label="Ask about"
        fullWidth
        size="xs"
        value={asked.how}
        onChange={(how) => set({ how: how as Asked["how"] })}
        data={[
          { value: "user", label: "User or client" },
          { value: "token", label: "Token" },
          { value: "decision", label: "Recorded decision" },
        ]}
      />
      {asked.how === "user" && <Caller asked={asked} set={set} at={at} />}
      {asked.how === "token" && (
        <PasswordInput
          label="Access token"
          description="Sent only to be verified: it stays in this page's memory, and is neither stored nor logged."
          autoComplete="off"
          value={asked.token}
          onChange={(e) => set({ token: e.currentTarget.value })}
          error={at("/question/token")}
        />
      )}
      {asked.how === "decision" ? (
        <TextInput
          label="Decision"
          description="Its id, as in X-Decision-ID. It is asked again, with the facts of now."
          value={asked.decision}
          onChange={(e) => set({ decision: e.currentTarget.value })}
          error={at("/question/decision")}
        />
      ) : (
        <Route asked={asked} set={set} at={at} />
      )}
    </Stack>
  );
}

type Part = { asked: Asked; set: (change: Partial<Asked>) => void; at: FieldErrors };

function Caller({ asked, set, at }: Part) {
  const can = useCan();
  const [search] = useDebouncedValue(asked.user.trim(), 150);
  const users = $api.useQuery(
    "get",
    "/v1/users",
    { params: { query: { search, limit: 10 } } },
    { enabled: search !== "" && !id.test(search) && can("user:list"), placeholderData: (before) => before },
  );
  // A link may name the user by id.
  const named = $api.useQuery(
    "get",
    "/v1/users/{user}",
    { params: { path: { user: asked.user } } },
    { enabled: id.test(asked.user) && can("user:read") },
  );
  const found = named.data;
  // biome-ignore lint/correctness/useExhaustiveDependencies: once, when it is found
  useEffect(() => {
    if (found) set({ user: found.subject, issuer: found.issuer });
  }, [found]);
  const items = users.data?.items ?? [];
  const issuers = [...new Set(items.filter((u) => u.subject === asked.user).map((u) => u.issuer))];
  return (
    <>
      <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="xs">
        <Autocomplete
          label="User"
          description="Their subject"
          value={asked.user}
          onChange={(user) => {
            const known = items.filter((u) => u.subject === user);
            set({ user, issuer: known.length === 1 ? known[0]!.issuer : "" });
          }}
          data={[...new Set(items.map((u) => u.subject))]}
          error={at("/question/subject")}
        />
        <TextInput
          label="Client"
          description={asked.user ? "That acts for the user; optional" : "Its id; without a user, the program itself"}
          value={asked.client}
          onChange={(e) => set({ client: e.currentTarget.value })}
          error={at("/question/client_id")}
        />
      </SimpleGrid>
      {(issuers.length > 1 || asked.issuer || at("/question/issuer")) && (
        <Autocomplete
          label="Issuer of the user"
          description="Empty: the identity provider of this service"
          value={asked.issuer}
          onChange={(issuer) => set({ issuer })}
          data={issuers}
          error={at("/question/issuer")}
        />
      )}
    </>
  );
}

function Route({ asked, set, at }: Part) {
  const can = useCan();
  const [search] = useDebouncedValue(asked.tenant.trim(), 150);
  const tenants = $api.useQuery(
    "get",
    "/v1/tenants",
    { params: { query: { limit: 10, ...(search ? { search } : {}) } } },
    { enabled: can("tenant:list"), placeholderData: (before) => before },
  );
  return (
    <>
      <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="xs">
        <Autocomplete
          label="Tenant"
          placeholder="none requested"
          value={asked.tenant}
          onChange={(tenant) => set({ tenant })}
          data={(tenants.data?.items ?? []).map((t) => t.id)}
          error={at("/question/tenant")}
        />
        <Autocomplete
          label="Method"
          value={asked.method}
          onChange={(method) => set({ method })}
          data={["GET", "POST", "PUT", "PATCH", "DELETE"]}
          error={at("/question/request/method")}
        />
        <TextInput
          label="Host"
          placeholder="api.example.com"
          value={asked.host}
          onChange={(e) => set({ host: e.currentTarget.value })}
          error={at("/question/request/host")}
        />
        <TextInput
          label="Path"
          value={asked.path}
          onChange={(e) => set({ path: e.currentTarget.value })}
          error={at("/question/request/path")}
        />
        <Autocomplete
          label="Scheme"
          value={asked.scheme}
          onChange={(scheme) => set({ scheme })}
          data={["https", "http"]}
          error={at("/question/request/scheme")}
        />
        <TextInput
          label="Client's IP address"
          placeholder="203.0.113.7"
          value={asked.ip}
          onChange={(e) => set({ ip: e.currentTarget.value })}
          error={at("/question/request/client_ip")}
        />
      </SimpleGrid>
      <Text size="xs" c="dimmed">
        A fact of the request that is empty is unknown: a policy that reads it denies the request.
      </Text>
    </>
  );
}
