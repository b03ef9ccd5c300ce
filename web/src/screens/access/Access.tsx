import { Button, Tabs } from "@mantine/core";
import { lazy, Suspense, useEffect } from "react";
import { Link, Redirect, useParams } from "wouter";
import { $api } from "../../api/client";
import { navigate } from "../../app/location";
import { useCan, useMe } from "../../app/me";
import { chooseTenant, useScope } from "../../app/scope";
import { Page } from "../../components/Page";
import { Empty, Loading } from "../../components/states";
import { useParam } from "../tenants/params";
import { Changes } from "./Changes";
import { Matrix } from "./Matrix";
import { Search } from "./Search";
import { Unused } from "./Unused";

const Graph = lazy(() => import("./Graph"));

const tabs = [
  { value: "search", label: "Who can do what", component: Search, needs: ["access:list", "access:search"] },
  { value: "matrix", label: "Matrix", component: Matrix, needs: ["access:list"] },
  { value: "graph", label: "Role graph", component: Graph, needs: ["role:list"] },
  { value: "unused", label: "Unused", component: Unused, needs: ["access:list"] },
  { value: "changes", label: "Changes", component: Changes, needs: ["access:list"] },
] as const;

/** Who can do what in a tenant, by which role, and since when. */
export default function Access() {
  const wanted = useParams<{ "*"?: string }>()["*"]?.split("/")[0] ?? "";
  const me = useMe();
  const { tenant, platform } = useScope();
  const [linked] = useParam("tenant");
  const can = useCan(tenant);
  // A link names the tenant that it is about; from then on the choice in the header counts.
  useEffect(() => {
    if (linked) chooseTenant(linked);
  }, [linked]);
  const within = $api.useQuery(
    "get",
    "/v1/me",
    { params: { query: { tenant } } },
    { enabled: tenant !== undefined, staleTime: 60_000 },
  );
  if (me.isPending || (tenant && within.isPending)) return <Loading rows={8} />;
  if (!tenant && platform) {
    return (
      <Page title="Access">
        <Empty title="Choose a tenant">
          Access is held in a tenant: choose one at the top of the page. What one person holds in all tenants is on the
          page of that <Link href="/users">user</Link>.
        </Empty>
      </Page>
    );
  }
  const shown = tabs.filter((t) => t.needs.some(can));
  if (!tenant || !["access:list", "access:search"].some(can)) {
    return (
      <Page title="Access">
        <Empty
          title="You may not ask about access"
          action={
            <Button component={Link} href="/" variant="default">
              Overview
            </Button>
          }
        >
          Administrators and auditors of a tenant, and of the platform, can.
        </Empty>
      </Page>
    );
  }
  const tab = shown.find((t) => t.value === wanted);
  if (!tab) return <Redirect to={`/access/${shown[0]?.value ?? "search"}`} replace />;
  return (
    <Page title="Access" description={`In ${tenant}: who can do what, and by which role`}>
      <Tabs
        value={tab.value}
        onChange={(v) => v && navigate(`/access/${v}`)}
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
            <Suspense fallback={<Loading rows={8} />}>
              <t.component key={tenant} tenant={tenant} />
            </Suspense>
          </Tabs.Panel>
        ))}
      </Tabs>
    </Page>
  );
}
