package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/gateway/assertion"
	"iam-service/internal/iam"
	"iam-service/internal/server"
)

func assertionCommand(environ []string) *cobra.Command {
	keys := &cobra.Command{
		Use:   "keys",
		Short: "The keys that sign identities: list, rotate, revoke",
		Long: "The keys that sign identities (X-Citadel-Assertion). The service rotates them by itself (ASSERTION_ROTATION). After a leak:\n" +
			"  iam-service assertion keys rotate --now    another key signs at once\n" +
			"  iam-service assertion keys revoke KID      no backend that reads the JWKS accepts the old one any more\n" +
			"The database alone is needed, and ASSERTION_KEY_ENCRYPTION_KEY where a key is created. Replicas follow within a second.",
	}
	keys.AddCommand(assertionListCommand(environ), assertionRotateCommand(environ), assertionRevokeCommand(environ))
	cmd := &cobra.Command{Use: "assertion", Short: "Signed identities: their keys"}
	cmd.AddCommand(keys)
	for _, c := range keys.Commands() {
		reports(c)
	}
	return cmd
}

// assertionKey is a key in a report. It contains nothing of the private one.
type assertionKey struct {
	ID             string     `json:"kid"`
	Algorithm      string     `json:"algorithm"`
	State          string     `json:"state"`
	SignsFrom      time.Time  `json:"signs_from"`
	SignsUntil     time.Time  `json:"signs_until"`
	PublishedUntil time.Time  `json:"published_until"`
	RevokedAt      *time.Time `json:"revoked_at,omitempty"`
	Erased         bool       `json:"private_key_erased"`
	EncryptedBy    string     `json:"key_encryption_key"` // fingerprint
}

func reportOf(k iam.AssertionKey, set iam.AssertionKeys) assertionKey {
	r := assertionKey{
		ID:             k.ID,
		Algorithm:      k.Algorithm,
		State:          string(assertion.StateOf(k, set)),
		SignsFrom:      k.SignsFrom.UTC(),
		SignsUntil:     k.SignsUntil.UTC(),
		PublishedUntil: k.PublishedUntil.UTC(),
		Erased:         k.Sealed == nil,
		EncryptedBy:    k.SealedBy,
	}
	if !k.RevokedAt.IsZero() {
		at := k.RevokedAt.UTC()
		r.RevokedAt = &at
	}
	return r
}

func assertionListCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the keys with their states and the key-encryption keys that they need", Args: cobra.NoArgs,
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			set, err := o.db.AssertionKeys(cmd.Context())
			if err != nil {
				return err
			}
			list := make([]assertionKey, 0, len(set.Keys))
			for _, k := range set.Keys {
				list = append(list, reportOf(k, set))
			}
			return report(cmd, map[string]any{"keys": list}, func(out io.Writer) {
				if len(list) == 0 {
					fmt.Fprintln(out, "there are none: serve creates the first one (ASSERTION_ISSUER)")
					return
				}
				w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "KID\tALG\tSTATE\tSIGNS FROM\tPUBLISHED UNTIL\tENCRYPTED BY")
				for _, k := range list {
					by := k.EncryptedBy
					if k.Erased {
						by = "(erased)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Algorithm, k.State, k.SignsFrom.Format(time.RFC3339), k.PublishedUntil.Format(time.RFC3339), by)
				}
				_ = w.Flush() // as the other lines
			})
		}),
	}
}

// assertionRules are the rules for changes of an operator. Encryption is nil where ASSERTION_KEY_ENCRYPTION_KEY is
// not set.
func assertionRules(environ []string, o *operator) (assertion.Rules, error) {
	cfg, err := server.ReadConfig(environ, server.Needs{Assertion: true})
	return assertion.Rules{
		Encryption: cfg.AssertionEncryption,
		Algorithm:  cfg.AssertionAlg,
		Rotation:   cfg.AssertionRotation,
		Actor:      o.caller.Operator,
		Via:        o.caller.Via,
	}, err
}

func assertionRotateCommand(environ []string) *cobra.Command {
	var now bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "Create a key, which signs once every backend has read it", Args: cobra.NoArgs,
		Long: "Create a key. It is published now, and signs once the caches of all backends have read it. With --now it signs at once: backends\n" +
			"that do not read the JWKS again for a key that they do not know reject identities until their caches end, for up to five minutes.",
		RunE: withOperator(environ, func(cmd *cobra.Command, _ []string, o *operator) error {
			rules, err := assertionRules(environ, o)
			if err != nil {
				return err
			}
			if rules.Encryption == nil {
				return errors.New("ASSERTION_KEY_ENCRYPTION_KEY is missing: it encrypts the new key, and must be that of the service")
			}
			at := assertion.AfterCaches
			if now {
				at = assertion.AtOnce
			}
			var created iam.AssertionKey
			set, err := o.db.ChangeAssertionKeys(cmd.Context(), func(set iam.AssertionKeys) (c iam.AssertionKeyChange, err error) {
				if err := sameEncryption(rules, set); err != nil {
					return c, err
				}
				c, created, err = rules.Rotate(set, at)
				return c, err
			})
			if err != nil {
				return err
			}
			return report(cmd, reportOf(created, set), func(out io.Writer) {
				fmt.Fprintf(out, "key %s (%s) signs from %s on\n", created.ID, created.Algorithm, created.SignsFrom.UTC().Format(time.RFC3339))
			})
		}),
	}
	cmd.Flags().BoolVar(&now, "now", false, "it signs at once, without waiting for the caches of backends")
	return cmd
}

// sameEncryption fails where no replica that uses the keys as they are could decrypt a new one.
func sameEncryption(rules assertion.Rules, set iam.AssertionKeys) error {
	for _, k := range set.Keys {
		if assertion.StateOf(k, set) == assertion.Signing && !rules.Encryption.Reads(k.SealedBy) {
			return fmt.Errorf("ASSERTION_KEY_ENCRYPTION_KEY (%s) is not the one of the key that signs (%s): the replicas could not decrypt a new key; "+
				"to change it, set both (docs/identity.md)", rules.Encryption.Fingerprint(), k.SealedBy)
		}
	}
	return nil
}

func assertionRevokeCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use: "revoke KID", Short: "Withdraw a key: it signs nothing more, is no longer published, and its private key is erased", Args: cobra.ExactArgs(1),
		Long: "Withdraw a key. Backends accept what it has signed until they read the JWKS again, within five minutes. If it is the one that signs,\n" +
			"another one is created, which signs at once.",
		RunE: withOperator(environ, func(cmd *cobra.Command, args []string, o *operator) error {
			rules, err := assertionRules(environ, o)
			if err != nil {
				return err
			}
			set, err := o.db.ChangeAssertionKeys(cmd.Context(), func(set iam.AssertionKeys) (iam.AssertionKeyChange, error) {
				return rules.Revoke(set, args[0])
			})
			if err != nil {
				return err
			}
			signer := ""
			for _, k := range set.Keys {
				if assertion.StateOf(k, set) == assertion.Signing {
					signer = k.ID
				}
			}
			return report(cmd, map[string]string{"revoked": args[0], "signing": signer}, func(out io.Writer) {
				fmt.Fprintf(out, "key %s is revoked; %s signs\n", args[0], cmp.Or(signer, "no key"))
			})
		}),
	}
}
