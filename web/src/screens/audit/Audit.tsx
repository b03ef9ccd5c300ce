import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Audit() {
  return (
    <Page title="Audit">
      <Empty title="Not built yet" />
    </Page>
  );
}
