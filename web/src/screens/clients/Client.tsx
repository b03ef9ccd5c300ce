import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Client() {
  return (
    <Page title="Client">
      <Empty title="Not built yet" />
    </Page>
  );
}
