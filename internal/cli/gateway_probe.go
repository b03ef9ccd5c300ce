package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"iam-service/internal/gateway/probe"
	"iam-service/internal/policy"
	"iam-service/internal/server"
)

// untestedError is why a gateway could not be tested: status 2, which is not that of faults.
type untestedError struct{ cause error }

func (e *untestedError) Error() string { return "could not test the gateway: " + e.cause.Error() }
func (e *untestedError) Unwrap() error { return e.cause }

type probeFlags struct {
	output, ca, token, without string
	headers, only              []string
	insecure                   bool
}

func gatewayProbeCommand(environ []string) *cobra.Command {
	var cfg probe.Config
	var f probeFlags
	cmd := &cobra.Command{
		Use:   "probe URL",
		Short: "Test a running gateway with forged headers, path, host and method tricks, and request smuggling",
		Long: "Send forged identity headers in every spelling, ambiguous paths, hosts, methods and framing to a gateway, as an allowed user, as a user without\n" +
			"roles and without a token, over HTTP/1.1 and HTTP/2, and compare what reaches the backend with what clean requests yield there.\n" +
			"The backend must be the echo: `gateway echo` (--echo), or one that is started for the run (--listen-echo).\n" +
			"The headers are those of GATEWAY_HEADERS, which is read from the environment as serve reads it.\n" +
			"Status: 0 no fault, 1 faults, 2 the gateway could not be tested. Only test gateways that you are authorized to test.",
		Example: "  iam-service gateway probe https://gateway.example/orders/7 --listen-echo :9999 --token @alice.jwt --token-without-roles @bob.jwt",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"text", "json"}, f.output) {
				return &usageError{fmt.Sprintf("--format must be text or json, is %q", f.output)}
			}
			cfg.Gateway = args[0]
			if err := f.fill(&cfg, environ); err != nil {
				return &untestedError{err}
			}
			report, err := probe.Run(cmd.Context(), cfg)
			if err != nil {
				return &untestedError{err}
			}
			if f.output == "json" {
				if err := report.JSON(cmd.OutOrStdout()); err != nil {
					return err
				}
			} else {
				report.Text(cmd.OutOrStdout())
			}
			if n := len(report.Faults); n > 0 {
				return fmt.Errorf("%d faults", n)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.token, "token", "", "access token of a user who is allowed to request the URL; @file reads it from a file")
	flags.StringVar(&f.without, "token-without-roles", "", "access token of a user without roles; @file reads it from a file")
	flags.StringVar(&cfg.Tenant, "tenant", "", "id of a tenant of both users, best not their default: sent as X-Active-Tenant-ID")
	flags.StringVar(&cfg.OpenPath, "open-path", "", "a path that is allowed without a token: tricks then try to pass as it")
	flags.StringSliceVar(&f.headers, "headers", nil, "identity headers (default: GATEWAY_HEADERS)")
	flags.StringArrayVar(&f.only, "only", nil, "attacks to try: groups ("+strings.Join(probe.Groups, ", ")+"), or how a name begins; can be repeated (default: all)")
	flags.StringVar(&cfg.Echo, "echo", "", "URL of the echo, reached directly: shows also what reached it behind an error")
	flags.StringVar(&cfg.ListenEcho, "listen-echo", "", "address at which to start the echo for this run, where the gateway finds its backend")
	flags.StringVar(&cfg.Connect, "connect", "", "host:port to connect to, instead of that of the URL")
	flags.StringVar(&f.ca, "ca-file", "", "PEM file of the authority that signed the gateway's certificate")
	flags.BoolVar(&f.insecure, "insecure", false, "do not verify the gateway's certificate")
	flags.DurationVar(&cfg.Timeout, "timeout", 0, "for one request (default 2s)")
	flags.DurationVar(&cfg.Limit, "limit", 0, "for the whole run (default 55s)")
	flags.IntVar(&cfg.Concurrency, "concurrency", 0, "requests at once (default 8)")
	flags.StringVar(&f.output, "format", "text", "text or json")
	return cmd
}

// fill completes cfg by files and settings.
func (f probeFlags) fill(cfg *probe.Config, environ []string) error {
	var errs []error
	read := func(flag, v string) string {
		name, is := strings.CutPrefix(v, "@")
		if !is {
			return v
		}
		text, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
		return strings.TrimSpace(string(text))
	}
	cfg.Token, cfg.TokenWithoutRoles = read("token", f.token), read("token-without-roles", f.without)
	for _, o := range f.only {
		if strings.Contains(o, "/") { // names have commas
			cfg.Only = append(cfg.Only, o)
			continue
		}
		cfg.Only = append(cfg.Only, strings.Split(o, ",")...)
	}
	cfg.Headers = f.headers
	if len(f.headers) == 0 {
		settings, err := server.ReadConfig(environ, server.Needs{Gate: true})
		if err != nil {
			errs = append(errs, err)
		}
		if cfg.Headers = settings.GatewayHeaders; len(cfg.Headers) == 0 {
			cfg.Headers = policy.DefaultHeaders
		}
	}
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.insecure} //nolint:gosec // G402: the flag says so; the probe sends no more than it was given
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		cfg.TLS.RootCAs = x509.NewCertPool()
		if err != nil {
			errs = append(errs, fmt.Errorf("--ca-file: %w", err))
		} else if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
			errs = append(errs, fmt.Errorf("--ca-file: %s has no certificate in PEM", f.ca))
		}
	}
	return errors.Join(errs...)
}
