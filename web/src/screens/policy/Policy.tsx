import { Button, Tabs } from "@mantine/core";
import { IconFileCode } from "@tabler/icons-react";
import { Link, Redirect, useParams } from "wouter";
import { navigate } from "../../app/location";
import { useCan, useMe } from "../../app/me";
import { Page } from "../../components/Page";
import { Empty, Loading } from "../../components/states";
import { Activations } from "./Activations";
import { InForce } from "./InForce";
import { Previews } from "./Previews";
import { Revisions } from "./Revisions";
import { Shadow } from "./Shadow";

const tabs = [
  { value: "overview", label: "Overview", needs: "policy:read", component: InForce },
  { value: "revisions", label: "Revisions", needs: "policy:list", component: Revisions },
  { value: "previews", label: "Previews", needs: "policy:read", component: Previews },
  { value: "shadow", label: "Shadow", needs: "policy:read", component: Shadow },
  { value: "activations", label: "Activations", needs: "policy:list", component: Activations },
] as const;

export default function Policy() {
  const [wanted, ...rest] = (useParams<{ "*"?: string }>()["*"] ?? "").split("/");
  const me = useMe();
  const can = useCan();
  if (me.isPending) return <Loading rows={8} />;
  const shown = tabs.filter((t) => can(t.needs));
  if (shown.length === 0)
    return (
      <Page title="Policy">
        <Empty title="You may not read the policy">Ask an administrator of the platform for a role that may.</Empty>
      </Page>
    );
  const tab = shown.find((t) => t.value === wanted) ?? (wanted === "preview" ? tabs[2] : undefined);
  if (!tab) return <Redirect to={`/policy/${shown[0]!.value}`} replace />;
  const Shown = tab.component;
  return (
    <Page
      title="Policy"
      description="What decides every request, what a change of it would do, and what was active when."
      actions={
        can("policy:evaluate") && (
          <Button component={Link} href="/policy/playground" variant="default" leftSection={<IconFileCode size={16} />}>
            Playground
          </Button>
        )
      }
    >
      <Tabs value={tab.value} onChange={(v) => navigate(`/policy/${v}`)} keepMounted={false}>
        <Tabs.List mb="md">
          {shown.map((t) => (
            <Tabs.Tab key={t.value} value={t.value}>
              {t.label}
            </Tabs.Tab>
          ))}
        </Tabs.List>
        <Tabs.Panel value={tab.value}>
          <Shown rest={rest} />
        </Tabs.Panel>
      </Tabs>
    </Page>
  );
}
