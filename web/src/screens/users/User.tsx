import { Page } from "../../components/Page";
import { Empty } from "../../components/states";

export default function User() {
  return (
    <Page title="User">
      <Empty title="Not built yet" />
    </Page>
  );
}
