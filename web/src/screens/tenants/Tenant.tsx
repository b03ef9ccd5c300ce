import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Tenant() {
  return (
    <Page title="Tenant">
      <Empty title="Not built yet" />
    </Page>
  );
}
