import "@mantine/core/styles.css";
import "@mantine/notifications/styles.css";
import "@mantine/spotlight/styles.css";
import "./app/global.css";
import { MantineProvider } from "@mantine/core";
import { Notifications } from "@mantine/notifications";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Router } from "wouter";
import { isProblem } from "./api/problem";
import { App } from "./app/App";
import { useHashLocation, useHashSearch } from "./app/location";
import { DialogsProvider } from "./components/dialogs";
import { theme, variables } from "./theme/theme";

// Styles that are written while the page runs carry the nonce of the content security policy.
const nonce = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]')?.nonce ?? "";
// So do those by which an open dialog keeps the page behind it from scrolling: react-style-singleton reads it from here.
Object.assign(globalThis, { __webpack_nonce__: nonce });

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 5_000,
      // What the service has answered is asked once; what it could not answer now, twice more.
      retry: (failures, error) => failures < 2 && (isProblem(error, 429, 503) || error instanceof TypeError),
      retryDelay: (failures, error) =>
        isProblem(error) && error.retryAfter ? error.retryAfter * 1000 : 500 * 2 ** failures,
    },
  },
});

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <MantineProvider
      theme={theme}
      cssVariablesResolver={variables}
      defaultColorScheme="auto"
      getStyleNonce={() => nonce}
    >
      <QueryClientProvider client={queries}>
        <Router hook={useHashLocation} searchHook={useHashSearch} hrefs={useHashLocation.hrefs}>
          <DialogsProvider>
            <Notifications />
            <App />
          </DialogsProvider>
        </Router>
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
