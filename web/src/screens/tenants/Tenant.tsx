import { Button, Group, Menu, Tabs } from "@mantine/core";
import { IconDots } from "@tabler/icons-react";
import { Redirect, useParams } from "wouter";
import { $api } from "../../api/client";
import { navigate } from "../../app/location";
import { useCan, useMe } from "../../app/me";
import { chooseTenant } from "../../app/scope";
import { Copy } from "../../components/Copy";
import { Page } from "../../components/Page";
import { Status } from "../../components/Status";
import { Empty, Failure, Loading } from "../../components/states";
import { Groups } from "./Groups";
import { Mappings } from "./Mappings";
import { Members } from "./members/Members";
import { Requests } from "./Requests";
import { Roles } from "./roles/Roles";
import { Settings } from "./Settings";

const tabs = [
  { value: "members", label: "Members", needs: "member:list", component: Members },
  { value: "roles", label: "Roles", needs: "role:list", component: Roles },
  { value: "mappings", label: "Mappings", needs: "mapping:list", component: Mappings },
  { value: "requests", label: "Requests", needs: "request:list", component: Requests },
  { value: "groups", label: "SCIM groups", needs: "scim-group:list", component: Groups },
  { value: "settings", label: "Settings", needs: "tenant:read", component: Settings },
] as const;

export default function Tenant() {
  const params = useParams<{ tenant: string; "*"?: string }>();
  const tenant = decodeURIComponent(params.tenant);
  const can = useCan(tenant);
  const me = useMe();
  const within = $api.useQuery("get", "/v1/me", { params: { query: { tenant } } }, { staleTime: 60_000 });
  const own = me.data?.tenants?.find((t) => t.tenant === tenant);
  const query = $api.useQuery(
    "get",
    "/v1/tenants/{tenant}",
    { params: { path: { tenant } } },
    { enabled: can("tenant:read") },
  );
  const path = [{ label: "Tenants", to: "/tenants" }];
  if (within.isError) {
    return (
      <Page title={tenant} path={path}>
        <Failure error={within.error} retry={() => void within.refetch()} />
      </Page>
    );
  }
  if (within.isPending || me.isPending || query.isLoading) return <Loading rows={8} />;
  if (query.isError && !query.data) {
    return (
      <Page title={tenant} path={path}>
        <Failure error={query.error} retry={() => void query.refetch()} />
      </Page>
    );
  }
  // A member who administers nothing sees the roles that they can ask for.
  const shown = tabs.filter((t) => can(t.needs));
  const wanted = params["*"]?.split("/")[0] ?? "";
  const name = query.data?.name ?? own?.name ?? tenant;
  const status = query.data?.status ?? own?.status;
  if (shown.length === 0) {
    return (
      <Page title={name} path={path}>
        <Empty title="You may do nothing here">
          There is no tenant with the id <code>{tenant}</code>, or none that you administer.
        </Empty>
      </Page>
    );
  }
  const tab = shown.find((t) => t.value === wanted);
  if (!tab) return <Redirect to={`/tenants/${params.tenant}/${shown[0]!.value}`} replace />;
  const go = (to: string) => () => {
    chooseTenant(tenant);
    navigate(to);
  };
  const elsewhere = [
    { label: "Clients", to: "/clients", needs: "client:list" },
    { label: "Access", to: "/access", needs: "access:list" },
    { label: "Decisions", to: "/decisions", needs: "decision:list" },
    { label: "Audit", to: "/audit", needs: "audit:read" },
  ].filter((e) => can(e.needs));
  return (
    <Page
      title={name}
      path={path}
      description={
        <Group gap="xs">
          <Copy value={tenant} label="Copy the id" />
          {status && <Status value={status} />}
          {status && status !== "active" && <span>Requests to it are denied.</span>}
        </Group>
      }
      actions={
        elsewhere.length > 0 && (
          <>
            {elsewhere.slice(0, 1).map((e) => (
              <Button key={e.to} variant="default" onClick={go(e.to)}>
                {e.label}
              </Button>
            ))}
            {elsewhere.length > 1 && (
              <Menu position="bottom-end">
                <Menu.Target>
                  <Button variant="default" aria-label="More about this tenant" px="xs">
                    <IconDots size={16} />
                  </Button>
                </Menu.Target>
                <Menu.Dropdown>
                  {elsewhere.slice(1).map((e) => (
                    <Menu.Item key={e.to} onClick={go(e.to)}>
                      {e.label}
                    </Menu.Item>
                  ))}
                </Menu.Dropdown>
              </Menu>
            )}
          </>
        )
      }
    >
      <Tabs
        value={tab.value}
        onChange={(value) => value && navigate(`/tenants/${params.tenant}/${value}`)}
        keepMounted={false}
        activateTabWithKeyboard={false}
      >
        <Tabs.List mb="md" style={{ flexWrap: "nowrap", overflowX: "auto", overflowY: "hidden" }}>
          {shown.map((t) => (
            <Tabs.Tab key={t.value} value={t.value} style={{ flexShrink: 0 }}>
              {t.label}
            </Tabs.Tab>
          ))}
        </Tabs.List>
        {shown.map((t) => (
          <Tabs.Panel key={t.value} value={t.value}>
            <t.component tenant={tenant} />
          </Tabs.Panel>
        ))}
      </Tabs>
    </Page>
  );
}
