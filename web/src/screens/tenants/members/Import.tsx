import { Empty } from "../../../components/states";

export default function Import(_: { tenant: string }) {
  return <Empty title="Not built yet" />;
}
