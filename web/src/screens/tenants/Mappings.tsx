import { Empty } from "../../components/states";

export function Mappings(_: { tenant: string }) {
  return <Empty title="Not built yet" />;
}
