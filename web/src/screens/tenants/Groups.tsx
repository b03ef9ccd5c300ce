import { Empty } from "../../components/states";

export function Groups(_: { tenant: string }) {
  return <Empty title="Not built yet" />;
}
