import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Clients() {
  return (
    <Page title="Clients">
      <Empty title="Not built yet" />
    </Page>
  );
}
