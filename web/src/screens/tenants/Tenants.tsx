import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Tenants() {
  return (
    <Page title="Tenants">
      <Empty title="Not built yet" />
    </Page>
  );
}
