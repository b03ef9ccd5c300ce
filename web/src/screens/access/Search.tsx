import { SegmentedControl, Stack } from "@mantine/core";
import { useCan } from "../../app/me";
import { useParam } from "../tenants/params";
import { Held } from "./Held";
import { Holders } from "./Holders";
import { RequestSearch } from "./RequestSearch";

/** Both directions of the question, and the active policy's own response. */
export function Search({ tenant }: { tenant: string }) {
  const can = useCan(tenant);
  const [mode, setMode] = useParam("ask");
  const modes = [
    { value: "holders", label: "Who holds it", needs: "access:list", component: Holders },
    { value: "held", label: "What a person holds", needs: "access:read", component: Held },
    { value: "request", label: "Whom a request lets in", needs: "access:search", component: RequestSearch },
  ].filter((m) => can(m.needs));
  const shown = modes.find((m) => m.value === mode) ?? modes[0];
  if (!shown) return null;
  return (
    <Stack>
      <SegmentedControl
        aria-label="Question"
        data={modes.map(({ value, label }) => ({ value, label }))}
        value={shown.value}
        onChange={(v) => setMode(v === "holders" ? "" : v)}
        style={{ alignSelf: "flex-start", maxWidth: "100%", overflowX: "auto" }}
      />
      <shown.component tenant={tenant} />
    </Stack>
  );
}
