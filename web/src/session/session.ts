// The person's session, which lives on the server. The page knows who it is and when it ends, and no token.
import { useSyncExternalStore } from "react";
import { base, csrfHeader } from "../api/base";
import { problemOf } from "../api/problem";

export interface Session {
  authenticated: boolean;
  issuer?: string;
  subject?: string;
  idle_ends_at?: string;
  ends_at?: string;
}

type State = { session: Session | undefined; renewing: boolean };

let state: State = { session: undefined, renewing: false };
const listeners = new Set<() => void>();

function set(next: Partial<State>): void {
  state = { ...state, ...next };
  for (const notify of listeners) notify();
}

export function useSessionState(): State {
  return useSyncExternalStore(
    (notify) => {
      listeners.add(notify);
      return () => listeners.delete(notify);
    },
    () => state,
  );
}

/** Asks the server who is signed in. With extend, it counts as activity. */
export async function loadSession(extend = false): Promise<Session> {
  const response = await fetch(`${base}session${extend ? "?extend=1" : ""}`, { headers: csrfHeader });
  if (!response.ok) throw await problemOf(response);
  const session = (await response.json()) as Session;
  if (session.authenticated || !state.session?.authenticated) set({ session });
  return session;
}

/** Where to sign in, and to return to. */
export const loginURL = (returnTo: string) => `${base}login?return=${encodeURIComponent(returnTo)}`;

/** The fragment route that the popup of a new sign-in returns to. */
export const renewedRoute = "#/signed-in";

const channel = new BroadcastChannel("iam-console-session");
let renewal: { promise: Promise<void>; resolve: () => void } | undefined;

/**
 * Waits until the person has signed in again; the page shows how. What is on the screen stays. As somebody else, the page
 * starts anew: what is on the screen is not theirs.
 */
export function renewSession(): Promise<void> {
  if (!renewal) {
    let resolve = () => {};
    const promise = new Promise<void>((r) => {
      resolve = r;
    });
    renewal = { promise, resolve };
    set({ renewing: true });
  }
  return renewal.promise;
}

async function renewed(): Promise<void> {
  const before = state.session;
  const now = await loadSession();
  if (!now.authenticated) return;
  if (before?.authenticated && (before.subject !== now.subject || before.issuer !== now.issuer)) {
    location.replace("#/");
    location.reload();
    return;
  }
  set({ renewing: false });
  renewal?.resolve();
  renewal = undefined;
}

channel.onmessage = (event) => {
  if (event.data === "signed-in") void renewed();
  if (event.data === "signed-out") location.reload();
};

/** Notifies the other windows of the console, in the popup of a new sign-in. */
export function announceSignIn(): void {
  channel.postMessage("signed-in");
}

/** Ends the session here and, where the provider has a page for it, there. */
export async function signOut(): Promise<void> {
  const response = await fetch(`${base}logout`, { method: "POST", headers: csrfHeader });
  if (!response.ok && response.status !== 401) throw await problemOf(response);
  channel.postMessage("signed-out");
  const redirect = response.ok ? ((await response.json()) as { redirect?: string }).redirect : "";
  if (redirect) location.assign(redirect);
  else {
    location.replace("#/");
    location.reload();
  }
}
