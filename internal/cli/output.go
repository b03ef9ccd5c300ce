package cli

import (
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// reports gives a command --json.
func reports(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Bool("json", false, "print JSON")
	return cmd
}

// report prints v: as JSON with --json, otherwise by text.
func report(cmd *cobra.Command, v any, text func(out io.Writer)) error {
	if asJSON, _ := cmd.Flags().GetBool("json"); !asJSON { // a command without the flag prints text
		text(cmd.OutOrStdout())
		return nil
	}
	e := json.NewEncoder(cmd.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// progress returns a progress bar on a terminal, and a silent one elsewhere.
func progress(cmd *cobra.Command, size int64, what string) *progressbar.ProgressBar {
	w := cmd.ErrOrStderr()
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return progressbar.DefaultSilent(size, what)
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what), progressbar.OptionShowCount(), progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionClearOnFinish(),
	}
	if size > 0 {
		options = append(options, progressbar.OptionShowBytes(true))
	}
	return progressbar.NewOptions64(size, options...)
}

func readAll(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(name)
}
