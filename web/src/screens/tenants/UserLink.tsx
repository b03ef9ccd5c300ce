import { Anchor } from "@mantine/core";
import type { ReactNode } from "react";
import { Link } from "wouter";
import { $api } from "../../api/client";
import { useCan, useMe } from "../../app/me";

/** A link to a user of the platform, where the person may open it. */
export function UserLink({ user, children }: { user: string; children: ReactNode }) {
  const can = useCan();
  if (!can("user:read")) return <>{children}</>;
  return (
    <Anchor component={Link} href={`/users/${user}`} size="sm">
      {children}
    </Anchor>
  );
}

/** The subject of a member, read when it is shown; the id where there is no member any more. */
export function MemberName({ tenant, user }: { tenant: string; user: string }) {
  const me = useMe();
  const can = useCan(tenant);
  const own = me.data?.user === user;
  const member = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}/members/{user}",
    { params: { path: { tenant, user } } },
    { enabled: can("member:read") && !own, staleTime: 300_000 },
  );
  if (own) return <>{me.data?.subject ?? user} (you)</>;
  return member.data ? member.data.subject : <code title={user}>{user.slice(0, 8)}</code>;
}
