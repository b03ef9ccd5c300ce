import react from "@vitejs/plugin-react";
import license from "rollup-plugin-license";
import { defineConfig } from "vite";

// Where the service runs whose console `npm run dev` shows.
const service = process.env.CONSOLE_SERVICE ?? "http://localhost:8081";

export default defineConfig(({ command }) => ({
  // Relative: the page works below any path prefix. Only the development server needs an absolute one.
  base: command === "serve" ? "/console/" : "./",
  plugins: [
    react(),
    license({
      thirdParty: {
        allow: {
          test: "(MIT OR ISC OR BSD-3-Clause OR BSD-2-Clause OR Apache-2.0 OR 0BSD OR Unlicense)",
          failOnUnlicensed: true,
          failOnViolation: true,
        },
        output: { file: "../internal/console/dist/licences.txt" },
      },
    }),
  ],
  build: {
    outDir: "../internal/console/dist",
    emptyOutDir: true,
    manifest: "manifest.json", // for tests/unit/size.test.ts
    target: "es2022",
    assetsInlineLimit: 0, // data: URLs of fonts and scripts would need a looser content security policy
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1000,
  },
  // The placeholder is replaced by the service, for each response.
  html: { cspNonce: "__CSP_NONCE__" },
  server: {
    proxy: {
      "^/console/(api|session|login|callback|logout)": { target: service, changeOrigin: false },
    },
  },
}));
