import { Alert, Button, Center, Loader, Modal, Paper, Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useEffect } from "react";
import { useLocation, useSearchParams } from "wouter";
import { Failure } from "../components/states";
import { announceSignIn, loadSession, loginURL, renewedRoute, useSessionState } from "./session";

const errors: Record<string, string> = {
  access_denied: "The identity provider did not let you sign in.",
  login_expired: "Signing in took too long, or this browser sends no cookies. Try again.",
  login_failed:
    "The identity provider's response could not be verified. Try again; if it stays, the log of iam-service says why.",
  provider_unavailable: "The identity provider cannot be reached now. Try again later.",
};

/** Shows its children to a person who is signed in, and how to sign in to others. */
export function SessionGate({ children }: { children: ReactNode }) {
  const { session, renewing } = useSessionState();
  const first = useQuery({
    queryKey: ["session"],
    queryFn: () => loadSession(),
    retry: 1,
    staleTime: Number.POSITIVE_INFINITY,
  });
  const [location] = useLocation();
  const [search] = useSearchParams();

  // A popup that comes back from a new sign-in notifies the window that waits for it.
  const popup = `#${location}` === renewedRoute;
  useEffect(() => {
    if (!popup || !session?.authenticated) return;
    announceSignIn();
    window.close();
  }, [popup, session]);

  if (first.isError && !session)
    return (
      <Full title="The console cannot start">{<Failure error={first.error} retry={() => void first.refetch()} />}</Full>
    );
  if (!session) {
    return (
      <Center h="100vh">
        <Loader aria-label="Loading" />
      </Center>
    );
  }
  if (popup)
    return <Full title={session.authenticated ? "You are signed in. Close this window." : "Sign in"}>{null}</Full>;
  if (!session.authenticated) {
    const code = location === "/signed-out" ? search.get("error") : undefined;
    return (
      <Full title="iam-service">
        {code && (
          <Alert color="yellow" title="You are not signed in" role="alert">
            {errors[code] ?? errors.login_failed}
          </Alert>
        )}
        <Text c="dimmed" size="sm">
          See who may do what in each tenant, why, and what a change of the policy would do.
        </Text>
        <Button component="a" href={loginURL(location === "/signed-out" ? "#/" : window.location.hash || "#/")}>
          Sign in
        </Button>
      </Full>
    );
  }
  return (
    <>
      {children}
      <Modal
        opened={renewing}
        zIndex={1000} // above all that the person was doing
        onClose={() => {}}
        withCloseButton={false}
        closeOnEscape={false}
        closeOnClickOutside={false}
        title="Your session has ended"
      >
        <Stack>
          <Text size="sm">Sign in again: what is on this page stays, and what you were doing goes on.</Text>
          <Button
            data-autofocus
            onClick={() => window.open(loginURL(renewedRoute), "iam-console-sign-in", "popup,width=520,height=680")}
          >
            Sign in again
          </Button>
        </Stack>
      </Modal>
    </>
  );
}

function Full({ title, children }: { title: string; children: ReactNode }) {
  return (
    <Center mih="100vh" p="md" component="main">
      <Paper withBorder p="xl" w={420} maw="100%">
        <Stack>
          <Title order={1}>{title}</Title>
          {children}
        </Stack>
      </Paper>
    </Center>
  );
}
