import { defineConfig } from "vitest/config";

// In a real browser against the running program: one file after the other, since they share its data.
export default defineConfig({
  test: {
    include: ["tests/days/**/*.test.ts"],
    globalSetup: "tests/lib/service.ts",
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    bail: 0,
  },
});
