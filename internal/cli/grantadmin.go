package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

func grantAdminCommand(environ []string) *cobra.Command {
	var issuer, subject, role string
	cmd := &cobra.Command{
		Use:   "grant-admin --subject SUBJECT",
		Short: "Grant a subject a platform role (break-glass: needs only DATABASE_URL; audited)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if issuer != "" { // with DATABASE_URL alone, the operator names the trusted issuer
				environ = append(environ[:len(environ):len(environ)], "RAUTH_URL="+issuer)
			}
			return withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
				if o.issuer == "" {
					return errors.New("name the issuer of the subject: --issuer or RAUTH_URL")
				}
				granted, err := o.service.GrantPlatformRole(cmd.Context(), o.caller, admin.Grant{Issuer: o.issuer, Subject: subject, Role: role})
				if err != nil {
					return err
				}
				return report(cmd, map[string]any{"issuer": o.issuer, "subject": subject, "user": granted.User, "role": role, "granted": granted.Changed}, func(out io.Writer) {
					verb := "already holds"
					if granted.Changed {
						verb = "now holds"
					}
					fmt.Fprintf(out, "%s (user %s) %s %s\n", subject, granted.User, verb, role)
				})
			})(cmd, nil)
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "issuer of the subject's tokens, exactly as in iss (default: RAUTH_URL)")
	cmd.Flags().StringVar(&subject, "subject", "", "subject of the tokens, as in sub")
	cmd.Flags().StringVar(&role, "role", iam.PlatformAdmin, "platform role: "+strings.Join(iam.PlatformRoles, ", "))
	_ = cmd.MarkFlagRequired("subject") // the flag exists
	return reports(cmd)
}
