import { Button } from "@mantine/core";
import { Component, type ReactNode, Suspense } from "react";
import { Link, Redirect, Route, Switch, useLocation } from "wouter";
import { Page } from "../components/Page";
import { Empty, Failure, Loading } from "../components/states";
import { SessionGate } from "../session/SessionGate";
import { Shell } from "./Shell";
import { screens } from "./screens";

export function App() {
  return (
    <SessionGate>
      <Shell>
        <Screens />
      </Shell>
    </SessionGate>
  );
}

function Screens() {
  const [location] = useLocation();
  return (
    <Boundary location={location}>
      <Suspense fallback={<Loading rows={8} />}>
        <Switch>
          {screens.map((s) => (
            <Route key={s.path} path={s.path} component={s.component} />
          ))}
          <Route path="/signed-out">
            <Redirect to="/" replace />
          </Route>
          <Route>
            <Page title="Not found">
              <Empty
                title="There is no such page"
                action={
                  <Button component={Link} href="/" variant="default">
                    Overview
                  </Button>
                }
              />
            </Page>
          </Route>
        </Switch>
      </Suspense>
    </Boundary>
  );
}

/** A fault in one screen leaves the others usable. */
class Boundary extends Component<{ location: string; children: ReactNode }, { error?: unknown }> {
  override state: { error?: unknown } = {};

  static getDerivedStateFromError(error: unknown) {
    return { error };
  }

  /** Another route is another try. What has not failed stays mounted: a tab that the person goes to has the focus. */
  override componentDidUpdate(before: { location: string }) {
    if (before.location !== this.props.location && this.state.error !== undefined) this.setState({ error: undefined });
  }

  override render() {
    if (this.state.error === undefined) return this.props.children;
    return <Failure error={this.state.error} retry={() => location.reload()} />;
  }
}
