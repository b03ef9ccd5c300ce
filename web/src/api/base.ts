/** The console's folder as the browser sees it, with its final slash: a gateway may have added a path prefix. */
export const base = new URL(".", document.baseURI).pathname;

/** What the service requires of each request that acts with the session: other origins cannot send it. */
export const csrfHeader = { "X-Requested-With": "iam-console" } as const;
