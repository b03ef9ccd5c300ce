import { Empty } from "../../../components/states";

export function Roles(_: { tenant: string }) {
  return <Empty title="Not built yet" />;
}
