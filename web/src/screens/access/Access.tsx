import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Access() {
  return (
    <Page title="Access">
      <Empty title="Not built yet" />
    </Page>
  );
}
