import { $api } from "../../api/client";
import { Page } from "../../components/Page";
import { RoleList } from "./roles/RoleList";

export default function GlobalRoles() {
  const query = $api.useQuery("get", "/v1/roles");
  return (
    <Page
      title="Global roles"
      description="Every tenant sees them. Services declare theirs in their manifests."
      path={[{ label: "Tenants", to: "/tenants" }]}
    >
      <RoleList tenant={undefined} query={query} />
    </Page>
  );
}
