// What a page does by itself, such as refreshing a table, must not keep a session from becoming idle.

const recent = 60_000;
let last = Date.now();

for (const event of ["pointerdown", "keydown", "wheel", "touchstart"]) {
  addEventListener(
    event,
    () => {
      last = Date.now();
    },
    { passive: true, capture: true },
  );
}

/** Headers of a request: without a sign of the person in the last minute, it does not count as use of the session. */
export const activityHeaders = (): Record<string, string> =>
  Date.now() - last < recent ? {} : { "X-Console-Background": "1" };
