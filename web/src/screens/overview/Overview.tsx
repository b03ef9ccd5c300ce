import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Overview() {
  return (
    <Page title="Overview">
      <Empty title="Not built yet" />
    </Page>
  );
}
