import { ActionIcon, Button, Fieldset, Group, SimpleGrid, Stack, Text, TextInput, Tooltip } from "@mantine/core";
import { IconClock, IconX } from "@tabler/icons-react";
import { useState } from "react";
import { useChanged, usePagesCache } from "../../../api/changes";
import { api, read, type Schemas, type Versioned } from "../../../api/client";
import { useDialogs } from "../../../components/dialogs";
import {
  AttributesInput,
  attributesText,
  DateTimeInput,
  done,
  type FieldErrors,
  FormModal,
  parseAttributes,
} from "../../../components/form";
import { type Subject, SubjectFields, subjectOf } from "../../users/SubjectFields";
import { useLeaving } from "../leaving";
import { RolesSelect, useRoles } from "../roles/RolesSelect";

export type MemberBody = Schemas["MemberBody"];
type Terms = Record<string, Schemas["RoleTerm"]>;

/** What of a membership is edited, in one form whatever the API leaves out. */
export interface Membership {
  roles: string[];
  role_terms: Terms;
  expires_at: string | undefined;
  attributes: Record<string, unknown>;
  status: "active" | "suspended";
}

export const membershipOf = (m: MemberBody): Membership => ({
  roles: m.roles ?? [],
  role_terms: m.role_terms ?? {},
  expires_at: m.expires_at,
  attributes: m.attributes ?? {},
  status: m.status === "suspended" ? "suspended" : "active",
});

interface Draft {
  roles: string[];
  terms: Terms;
  expires: string | undefined;
  attributes: string;
}

const draftOf = (m: Membership): Draft => ({
  roles: m.roles,
  terms: m.role_terms,
  expires: m.expires_at,
  attributes: attributesText(m.attributes),
});

/** The membership that a draft means: terms of roles that it does not have are left out, and so are empty ones. */
function membershipFrom(d: Draft, status: Membership["status"]): Membership {
  const terms = Object.entries(d.terms).filter(
    ([role, t]) => d.roles.includes(role) && (t.starts_at || t.expires_at || t.reason),
  );
  return {
    roles: d.roles,
    role_terms: Object.fromEntries(terms),
    expires_at: d.expires,
    attributes: parseAttributes(d.attributes) ?? {},
    status,
  };
}

function MembershipFields({
  tenant,
  draft,
  onChange,
  at,
}: {
  tenant: string;
  draft: Draft;
  onChange: (d: Draft) => void;
  at: FieldErrors;
}) {
  const roles = useRoles(tenant);
  const set = (part: Partial<Draft>) => onChange({ ...draft, ...part });
  const setTerm = (role: string, term: Schemas["RoleTerm"] | undefined) => {
    const { [role]: _, ...others } = draft.terms;
    set({ terms: term ? { ...others, [role]: term } : others });
  };
  return (
    <>
      <RolesSelect
        label="Roles"
        roles={roles.data?.items ?? []}
        value={draft.roles}
        onChange={(chosen) => set({ roles: chosen })}
        error={at("/roles")}
      />
      {draft.roles.map((role) => {
        const term = draft.terms[role];
        if (!term) {
          return (
            <Group key={role} justify="space-between" gap="xs">
              <Text size="sm">
                <code>{role}</code> as long as the membership
              </Text>
              <Button
                size="compact-sm"
                variant="subtle"
                leftSection={<IconClock size={14} />}
                aria-label={`Limit ${role} in time`}
                onClick={() => setTerm(role, {})}
              >
                Limit in time
              </Button>
            </Group>
          );
        }
        return (
          <Fieldset key={role} legend={<code>{role}</code>} p="sm">
            <Stack gap="xs">
              <SimpleGrid cols={{ base: 1, xs: 2 }}>
                <DateTimeInput
                  label="Not before"
                  value={term.starts_at}
                  onChange={(starts_at) => setTerm(role, { ...term, starts_at })}
                  error={at(`/role_terms/${role}/starts_at`)}
                />
                <DateTimeInput
                  label="Until"
                  value={term.expires_at}
                  onChange={(expires_at) => setTerm(role, { ...term, expires_at })}
                  error={at(`/role_terms/${role}/expires_at`)}
                />
              </SimpleGrid>
              <Group align="flex-end" wrap="nowrap">
                <TextInput
                  label="Reason"
                  description="Stays in the audit log. No personal data."
                  maxLength={500}
                  style={{ flex: 1 }}
                  value={term.reason ?? ""}
                  onChange={(e) => setTerm(role, { ...term, reason: e.currentTarget.value || undefined })}
                  error={at(`/role_terms/${role}/reason`)}
                />
                <Tooltip label="No limit">
                  <ActionIcon
                    variant="default"
                    size="lg"
                    aria-label={`Remove the limit of ${role}`}
                    onClick={() => setTerm(role, undefined)}
                  >
                    <IconX size={16} />
                  </ActionIcon>
                </Tooltip>
              </Group>
              {at(`/role_terms/${role}`) && (
                <Text size="sm" c="var(--mantine-color-error)" role="alert">
                  {at(`/role_terms/${role}`)}
                </Text>
              )}
            </Stack>
          </Fieldset>
        );
      })}
      <DateTimeInput
        label="Membership ends"
        description="In your time zone. Empty: it has no end."
        value={draft.expires}
        onChange={(expires) => set({ expires })}
        error={at("/expires_at")}
      />
      <AttributesInput
        text={draft.attributes}
        onChange={(attributes) => set({ attributes })}
        error={at("/attributes")}
      />
    </>
  );
}

const memberPath = "/v1/tenants/{tenant}/members/{user}";

export function AddMember({
  tenant,
  issuer,
  onClose,
}: {
  tenant: string;
  issuer: string;
  onClose: (added?: string) => void;
}) {
  const [who, setWho] = useState<Subject>({ subject: "", issuer });
  const [draft, setDraft] = useState<Draft>({ roles: [], terms: {}, expires: undefined, attributes: "" });
  const pages = usePagesCache<MemberBody>("/v1/tenants/{tenant}/members");
  const changed = useChanged();
  return (
    <FormModal
      title="Add a member"
      submitLabel="Add"
      onClose={() => onClose()}
      disabled={!who.subject || !parseAttributes(draft.attributes)}
      submit={async (key) => {
        const { data } = await api.POST("/v1/tenants/{tenant}/members", {
          params: { path: { tenant }, header: { "Idempotency-Key": key } },
          body: { ...subjectOf(who), ...membershipFrom(draft, "active") },
        });
        await Promise.all([pages.reset(), changed("/v1/users")]);
        done(`${who.subject} is a member`);
        onClose(data!.user);
        return false; // closed already
      }}
    >
      {(at) => (
        <>
          <SubjectFields value={who} onChange={setWho} at={at} />
          <MembershipFields tenant={tenant} draft={draft} onChange={setDraft} at={at} />
        </>
      )}
    </FormModal>
  );
}

export function EditMember({ base, onClose }: { base: Versioned<MemberBody>; onClose: () => void }) {
  const { tenant, user, subject } = base.value;
  const path = { tenant, user };
  const before = membershipOf(base.value);
  const [draft, setDraft] = useState(() => draftOf(before));
  const { saveEdit } = useDialogs();
  const leaving = useLeaving(tenant);
  const pages = usePagesCache<MemberBody>("/v1/tenants/{tenant}/members");
  const changed = useChanged();
  return (
    <FormModal
      title={`Edit ${subject}`}
      submitLabel="Save"
      onClose={onClose}
      disabled={!parseAttributes(draft.attributes)}
      submit={async () => {
        let saved = false;
        const answered = await leaving(async (query) => {
          saved = await saveEdit<Membership>({
            title: `${subject} changed`,
            base: { value: before, etag: base.etag },
            mine: membershipFrom(draft, before.status),
            save: async (body, etag) => {
              const { data } = await api.PUT(memberPath, {
                params: { path, query, header: { "If-Match": etag } },
                body,
              });
              pages.replace((m) => m.user === user, data);
              await changed(memberPath, "/v1/users/{user}", "/v1/me");
              done("Saved");
            },
            reload: async () => {
              const { value, etag } = await read(memberPath, { params: { path } });
              return { value: membershipOf(value), etag };
            },
          });
        });
        return answered && saved;
      }}
    >
      {(at) => <MembershipFields tenant={tenant} draft={draft} onChange={setDraft} at={at} />}
    </FormModal>
  );
}
