package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"iam-service/internal/gateway/setup"
	"iam-service/internal/policy"
	"iam-service/internal/server"
)

func gatewayCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{Use: "gateway", Short: "Configure gateways in front of this service (config), and test them from outside (probe, echo)"}
	cmd.AddCommand(gatewayConfigCommand(environ), gatewayProbeCommand(environ), gatewayEchoCommand())
	return cmd
}

func gatewayConfigCommand(environ []string) *cobra.Command {
	var s setup.Settings
	var dir string
	kinds := ""
	for _, k := range setup.Kinds() {
		kinds += fmt.Sprintf("\n  %-14s %s", k[0], k[1])
	}
	cmd := &cobra.Command{
		Use:   "config KIND",
		Short: "Print the configuration of a gateway: every identity header set or removed, failing closed",
		Long: "Print a complete configuration of a gateway, from GATEWAY_HEADERS and GATEWAY_PROFILE as the service has them. Its\n" +
			"comments say which settings the service needs. Several files are printed one after the other; --dir writes them.\n\nKinds:" + kinds,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := server.ReadConfig(environ, server.Needs{Gate: true})
			if err != nil {
				return err
			}
			s.Headers, s.Usual, s.Profiles = cfg.GatewayHeaders, cfg.GatewayHeaders == nil, cfg.Profiles
			if s.Usual {
				s.Headers = policy.DefaultHeaders
			}
			if dir != "" { // gateways have another working directory, so one file names another by its whole path
				if s.Dir, err = filepath.Abs(dir); err != nil {
					return err
				}
				s.Dir += "/"
			}
			files, err := setup.Generate(args[0], s)
			if err != nil {
				return err
			}
			return writeFiles(cmd, files, dir)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.IAM, "iam", "http://iam-service:8080", "URL of GATEWAY_ADDR, as the gateway reaches it")
	f.StringVar(&s.IAMCA, "iam-ca", "", "PEM file, at the gateway, of the authorities that verify the certificate of an https --iam or --ext-authz (default: those of the system)")
	f.StringVar(&s.IAMCert, "iam-cert", "", "PEM file, at the gateway, of the certificate that it identifies itself with to an https --iam or --ext-authz")
	f.StringVar(&s.IAMKey, "iam-key", "", "PEM file of its key")
	f.StringVar(&s.ExtAuthz, "ext-authz", "iam-service:9191", "host:port of EXT_AUTHZ_ADDR, as the gateway reaches it; https://host:port with TLS")
	f.StringVar(&s.Backend, "backend", "http://backend:8080", "URL of what is behind the gateway")
	f.StringVar(&s.Listen, "listen", ":8000", "address that the gateway serves")
	f.StringVar(&s.Loopback, "loopback", "127.0.0.1:18080", "address that HAProxy and Traefik use between their own parts")
	f.StringVar(&dir, "dir", "", "write the files to this folder instead, which is where the gateway reads them")
	return cmd
}

func writeFiles(cmd *cobra.Command, files []setup.File, dir string) error {
	for i, f := range files {
		if dir != "" {
			if err := os.WriteFile(filepath.Join(dir, f.Name), []byte(f.Text), 0o644); err != nil { //nolint:gosec // the gateway's user reads it, and nothing in it is secret
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), filepath.Join(dir, f.Name))
			continue
		}
		if len(files) > 1 {
			comment := "#"
			if strings.HasSuffix(f.Name, ".lua") {
				comment = "--"
			}
			if i > 0 {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s ---- %s ----\n", comment, f.Name)
		}
		fmt.Fprint(cmd.OutOrStdout(), f.Text)
	}
	return nil
}
