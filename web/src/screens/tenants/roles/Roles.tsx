import { RoleList } from "./RoleList";
import { useRoles } from "./RolesSelect";

export function Roles({ tenant }: { tenant: string }) {
  return <RoleList tenant={tenant} query={useRoles(tenant)} />;
}
