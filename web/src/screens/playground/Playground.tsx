import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Playground() {
  return (
    <Page title="Playground">
      <Empty title="Not built yet" />
    </Page>
  );
}
