import { Empty } from "../../components/states";

export function Requests(_: { tenant: string }) {
  return <Empty title="Not built yet" />;
}
