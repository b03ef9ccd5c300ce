import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Decision() {
  return (
    <Page title="Decision">
      <Empty title="Not built yet" />
    </Page>
  );
}
