import { isProblem } from "../../api/problem";
import { type Confirmation, useDialogs } from "../../components/dialogs";

export type Leaving = { leave_without_administrator?: boolean };

/**
 * Runs a change that can leave a tenant without an administrator: where the service refuses it for that, asks whether that is
 * meant, and repeats it. `first` is a confirmation of the change itself. Resolves to whether it is done.
 */
export function useLeaving(tenant: string) {
  const { confirm } = useDialogs();
  return async (run: (query: Leaving) => Promise<unknown>, first?: Omit<Confirmation, "run">): Promise<boolean> => {
    let last = false;
    const attempt = async () => {
      try {
        await run({});
      } catch (error) {
        if (!isProblem(error, "last_tenant_admin")) throw error;
        last = true;
      }
    };
    if (!first) await attempt();
    else if (!(await confirm({ ...first, run: attempt }))) return false;
    if (!last) return true;
    return confirm({
      title: "No administrator would be left",
      children: `${tenant} would have no active person who administers it without an end. Only an administrator of the platform could create a new one. Create another administrator first, or go on if you mean it.`,
      confirm: "Leave it without an administrator",
      danger: true,
      type: tenant,
      run: () => run({ leave_without_administrator: true }),
    });
  };
}
