import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function Users() {
  return (
    <Page title="Users">
      <Empty title="Not built yet" />
    </Page>
  );
}
