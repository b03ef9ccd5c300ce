import type { Schemas } from "../../api/client";

/** What stands out in the state of the platform, in words. */
export function faultsOf(o: Schemas["OverviewBody"]): string[] {
  const faults: string[] = [];
  const replicas = o.replicas ?? [];
  const versions = [...new Set(replicas.map((r) => r.version))];
  if (!o.policy.revision) faults.push("No policy is active on the replica that responded.");
  if (versions.length > 1) faults.push(`Replicas run different versions: ${versions.join(", ")}.`);
  for (const r of replicas) {
    if (r.revision !== o.policy.revision)
      faults.push(`${r.replica} decides by ${r.revision ?? "no policy"}, not by ${o.policy.revision ?? "none"}.`);
    if (r.rejected) faults.push(`${r.replica} rejected a candidate of the policy.`);
    if (r.facts?.state === "stale") faults.push(`${r.replica} is stale: it does not serve facts from memory.`);
    if (r.facts?.state === "suspect") faults.push(`${r.replica} is suspect: it had no heartbeat for 2 seconds.`);
  }
  if (o.outbox.parked > 0) faults.push(`The bus rejects ${o.outbox.parked.toLocaleString()} events.`);
  if (o.outbox.oldest_seconds > 60)
    faults.push(`An event has waited for ${Math.round(o.outbox.oldest_seconds)} seconds to be published.`);
  if (o.clients.failed > 0)
    faults.push(`The identity provider rejected the last operation of ${o.clients.failed.toLocaleString()} clients.`);
  if (o.clients.secrets_unknown > 0)
    faults.push(
      `The outcome of a secret's rotation is unknown for ${o.clients.secrets_unknown.toLocaleString()} clients.`,
    );
  if (o.clients.oldest_seconds > 300)
    faults.push(
      `A client has waited for ${Math.round(o.clients.oldest_seconds / 60)} minutes for the identity provider.`,
    );
  const drift = o.clients.drift;
  if (drift && drift.remaining > 0)
    faults.push(`${drift.remaining.toLocaleString()} differences between clients and the identity provider remain.`);
  if (drift?.stopped) faults.push("The comparison with the identity provider repaired nothing: too much differs.");
  return faults;
}
