import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Policy() {
  return (
    <Page title="Policy">
      <Empty title="Not built yet" />
    </Page>
  );
}
