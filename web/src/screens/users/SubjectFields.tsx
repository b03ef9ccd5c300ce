import { TextInput } from "@mantine/core";
import type { FieldErrors } from "../../components/form";

export interface Subject {
  subject: string;
  /** Empty: R-Auth. */
  issuer: string;
}

/** The part of a request that names a subject. */
export const subjectOf = ({ subject, issuer }: Subject) => ({
  subject,
  ...(issuer.trim() ? { issuer: issuer.trim() } : {}),
});

/** Who a person is at their identity provider: the fields of a new user, and of a new member. */
export function SubjectFields({
  value,
  onChange,
  at,
}: {
  value: Subject;
  onChange: (value: Subject) => void;
  at: FieldErrors;
}) {
  return (
    <>
      <TextInput
        label="Subject"
        description="As in the sub claim of their tokens."
        required
        data-autofocus
        value={value.subject}
        onChange={(e) => onChange({ ...value, subject: e.currentTarget.value })}
        error={at("/subject")}
        maxLength={255}
      />
      <TextInput
        label="Issuer"
        description="Of their tokens. Empty: R-Auth."
        value={value.issuer}
        onChange={(e) => onChange({ ...value, issuer: e.currentTarget.value })}
        error={at("/issuer")}
        maxLength={512}
      />
    </>
  );
}
