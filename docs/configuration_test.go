package docs_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"iam-service/internal/server"
)

// The table of settings is made from the struct that serve reads.
func TestTheTableOfSettingsIsThatOfTheProgram(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString("| setting | default | meaning |\n| --- | --- | --- |\n")
	for _, v := range server.Variables() {
		value := ""
		if v[1] != "" {
			value = "`" + v[1] + "`"
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", v[0], value, strings.ReplaceAll(v[2], "|", "\\|"))
	}
	if !strings.Contains(string(page), want.String()) {
		t.Errorf("docs/configuration.md lacks this table:\n%s", want.String())
	}
}
