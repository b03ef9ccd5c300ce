import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Decisions() {
  return (
    <Page title="Decisions">
      <Empty title="Not built yet" />
    </Page>
  );
}
