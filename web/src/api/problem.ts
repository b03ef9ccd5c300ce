import type { components } from "./schema";

export type Problem = components["schemas"]["Problem"];

/** A response that is not a success, as an RFC 9457 problem. */
export class ProblemError extends Error {
  readonly problem: Problem;
  readonly retryAfter: number | undefined;

  constructor(problem: Problem, retryAfter?: number) {
    super(problem.detail ?? problem.title);
    this.name = "ProblemError";
    this.problem = problem;
    this.retryAfter = retryAfter;
  }

  get status(): number {
    return this.problem.status;
  }

  get code(): string {
    return this.problem.code ?? "";
  }

  /** The message about one field, by JSON pointer. */
  field(pointer: string): string | undefined {
    return this.problem.errors?.find((e) => e.pointer === pointer)?.detail;
  }
}

export function isProblem(error: unknown, ...codesOrStatuses: (string | number)[]): error is ProblemError {
  return (
    error instanceof ProblemError &&
    (codesOrStatuses.length === 0 || codesOrStatuses.some((c) => c === error.code || c === error.status))
  );
}

/** Reads the problem of a response; a body that is none (of a proxy on the way) becomes one. */
export async function problemOf(response: Response): Promise<ProblemError> {
  const retryAfter = Number(response.headers.get("Retry-After")) || undefined;
  try {
    if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
      return new ProblemError((await response.json()) as Problem, retryAfter);
    }
  } catch {
    // Fall through: the document was cut off.
  }
  return new ProblemError(
    {
      type: "about:blank",
      title: `The server responded ${response.status} ${response.statusText}`.trim(),
      status: response.status,
    },
    retryAfter,
  );
}
