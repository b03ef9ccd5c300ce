package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
	embedded "iam-service/policies"
)

func policyNewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "new FOLDER",
		Short: "Create a policy folder: a copy of the default policy, and an example rule with its test, schema and cases",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			created, err := authoring.New(args[0], embedded.FS)
			for _, name := range created {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return err
		},
	}
}

func policyFormatCommand() *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "fmt PATH...",
		Short: "Format .rego files, as opa fmt does",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format := authoring.Format
			if list {
				format = authoring.Unformatted
			}
			changed, err := format(args)
			for _, name := range changed {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			if err == nil && list && len(changed) > 0 {
				err = fmt.Errorf("%d files are not formatted", len(changed))
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&list, "list", "l", false, "list unformatted files instead of writing them, and fail if there are any")
	return cmd
}

func policyBuildCommand(environ []string) *cobra.Command {
	var key authoring.Signer
	var output, revision string
	cmd := &cobra.Command{
		Use:   "build FOLDER",
		Short: "Check a folder, build a bundle of it without its tests, and sign it with --key",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := checkOptions(environ)
			if err != nil {
				return err
			}
			found, _, err := authoring.Check(cmd.Context(), args[0], o)
			if err == nil {
				err = findings(cmd, found)
			}
			if err != nil {
				return fmt.Errorf("nothing was built: %w", err)
			}
			signer := &key
			if !cmd.Flags().Changed("key") { // an empty name is an error, not an absent key
				signer = nil
			}
			packed, err := authoring.Build(args[0], revision, signer)
			if err != nil {
				return err
			}
			return writeBundle(cmd.OutOrStdout(), output, packed)
		},
	}
	signerFlags(cmd, &key)
	cmd.Flags().StringVarP(&output, "output", "o", "bundle.tar.gz", "file to write")
	cmd.Flags().StringVarP(&revision, "revision", "r", "", "name of the revision, such as a commit (default: the one in .manifest)")
	return cmd
}

func policySignCommand(environ []string) *cobra.Command {
	var key authoring.Signer
	cmd := &cobra.Command{
		Use:   "sign BUNDLE --key FILE",
		Short: "Check a bundle by the gate and sign it, replacing any signature",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			packed, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			o, err := checkOptions(environ)
			if err != nil {
				return err
			}
			if _, err := authoring.CheckPacked(cmd.Context(), args[0], packed, o); err != nil {
				return fmt.Errorf("nothing was signed: %w", err)
			}
			if packed, err = authoring.Sign(packed, key); err != nil {
				return err
			}
			return writeBundle(cmd.OutOrStdout(), args[0], packed)
		},
	}
	signerFlags(cmd, &key)
	_ = cmd.MarkFlagRequired("key") // the flag exists
	return cmd
}

func policyVerifyCommand(environ []string) *cobra.Command {
	var keyFile string
	cmd := reports(&cobra.Command{
		Use:   "verify BUNDLE --key FILE",
		Short: "Verify a bundle's signature, and that the gate would accept it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			packed, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			text, err := os.ReadFile(keyFile)
			if err != nil {
				return err
			}
			key, err := policy.ParseKey(text)
			if err != nil {
				return fmt.Errorf("%s: %w", keyFile, err)
			}
			if _, err := authoring.Verify(packed, key); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			o, err := checkOptions(environ)
			if err != nil {
				return err
			}
			revision, err := authoring.CheckBundle(cmd.Context(), args[0], o)
			if err != nil {
				return fmt.Errorf("the signature is valid, but the gate rejects the bundle: %w", err)
			}
			return report(cmd, map[string]any{"bundle": args[0], "revision": revision.ID, "digest": revision.Digest}, func(out io.Writer) {
				fmt.Fprintf(out, "%s is signed with this key, and the gate accepts it as revision %s\n", args[0], revision.ID)
			})
		},
	})
	cmd.Flags().StringVar(&keyFile, "key", "", "PEM file with the public key")
	_ = cmd.MarkFlagRequired("key") // the flag exists
	return cmd
}

func policyInspectCommand() *cobra.Command {
	return reports(&cobra.Command{
		Use:   "inspect FOLDER|BUNDLE",
		Short: "Print a policy's revision, roots, signature, packages and reason codes",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			seen, err := authoring.Inspect(args[0])
			if err != nil {
				return err
			}
			return report(cmd, seen, seen.Text)
		},
	})
}

func signerFlags(cmd *cobra.Command, key *authoring.Signer) {
	cmd.Flags().StringVar(&key.File, "key", "", "PEM file with the private key: EC or RSA, without a password")
	cmd.Flags().StringVar(&key.ID, "key-id", "iam", "key ID in the signature, by which an OPA selects the public key")
}

func writeBundle(out io.Writer, name string, packed []byte) error {
	if err := authoring.WriteFile(name, packed, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "wrote %s, %d bytes\n", name, len(packed))
	return nil
}
