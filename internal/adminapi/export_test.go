package adminapi

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// A transaction that conflicts runs again: what its first attempt left in the buffers is not a part of the response.
func TestAnExportThatIsRetriedRepeatsNoRow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format format
		want   string
	}{
		{format: csvMedia, want: "a,b\n"},
		{format: linesMedia, want: "{\"a\":1}\n"},
	} {
		t.Run(string(c.format), func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			put := &exportWriter{out: newStream(w), format: c.format}
			attempt := func() {
				t.Helper()
				if err := put.restart(); err != nil {
					t.Fatal(err)
				}
				if err := put.each(map[string]int{"a": 1}, [][]string{{"a", "b"}}); err != nil {
					t.Fatal(err)
				}
			}
			attempt()
			attempt()
			if err := put.flush(); err != nil {
				t.Fatal(err)
			}
			if w.Body.String() != c.want {
				t.Errorf("the body is %q, want %q", w.Body, c.want)
			}
			if err := put.each(map[string]int{"a": 1}, [][]string{{strings.Repeat("x", 40<<10)}}); err != nil {
				t.Fatal(err)
			}
			if put.restart() == nil {
				t.Error("an attempt after a part was sent began again")
			}
		})
	}
}
