import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function GlobalRoles() {
  return (
    <Page title="GlobalRoles">
      <Empty title="Not built yet" />
    </Page>
  );
}
