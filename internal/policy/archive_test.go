package policy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"iam-service/internal/policy"
)

// header is one block of a tar file, by hand: what no writer would write.
func header(name string, kind byte, size int) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000600\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x0000000000000\x00", size))
	copy(b[148:], "        ")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	if kind == tar.TypeGNUSparse {
		copy(b[257:], "ustar  \x00")
	}
	sum := 0
	for _, x := range b {
		sum += int(x)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// pax is an entry of extended records, which are about the entry that follows.
func pax(records ...string) []byte {
	var body []byte
	for _, r := range records {
		n := len(r) + 3 // "N r\n"
		for len(fmt.Sprintf("%d %s\n", n, r)) != n {
			n++
		}
		body = fmt.Appendf(body, "%d %s\n", n, r)
	}
	out := append(header("pax", 'x', len(body)), body...)
	return append(out, make([]byte, (512-len(body)%512)%512)...)
}

func zipped(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	for _, p := range append(parts, make([]byte, 1024)) {
		if _, err := z.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// sparse is eight files of 30 MB of which nothing is there.
func sparse(t testing.TB) []byte {
	t.Helper()
	var parts [][]byte
	for i := range 8 {
		name := fmt.Sprintf("iam/s%d.rego", i)
		parts = append(parts, pax("GNU.sparse.major=0", "GNU.sparse.minor=1", "GNU.sparse.name="+name, "GNU.sparse.size=31457280", "GNU.sparse.numblocks=0", "GNU.sparse.map="), header(name, '0', 0))
	}
	return zipped(t, parts...)
}

func TestAnArchiveThatNoBundleNeedsIsRejected(t *testing.T) {
	t.Parallel()
	file := func(name string) []byte { return header(name, '0', 0) }
	var many [][]byte
	for i := range 10_001 {
		many = append(many, file(fmt.Sprintf("f%d", i)))
	}
	for name, c := range map[string]struct {
		packed []byte
		want   string
	}{
		"sparse in records":    {sparse(t), `"iam/s0.rego" is a sparse file`},
		"sparse by its kind":   {zipped(t, header("x.rego", 'S', 0)), "neither a file nor a folder"},
		"a link":               {zipped(t, header("x.rego", '2', 0)), "neither a file nor a folder"},
		"a hard link":          {zipped(t, header("x.rego", '1', 0)), "neither a file nor a folder"},
		"a device":             {zipped(t, header("x.rego", '3', 0)), "neither a file nor a folder"},
		"a pipe":               {zipped(t, header("x.rego", '6', 0)), "neither a file nor a folder"},
		"above the root":       {zipped(t, file("iam/../../x.rego")), "not a path below the root"},
		"above, from the root": {zipped(t, file("/../x.rego")), "not a path below the root"},
		"another host's":       {zipped(t, file("//host/x.rego")), "not a path below the root"},
		"another system's":     {zipped(t, file(`iam\..\x.rego`)), "not a path below the root"},
		"twice":                {zipped(t, file("iam/x.rego"), file("./iam/x.rego")), `it contains "iam/x.rego" twice`},
		"twice, from the root": {zipped(t, file("/iam/x.rego"), file("iam//x.rego")), `it contains "iam/x.rego" twice`},
		"a delta":              {zipped(t, file("/patch.json")), "delta bundle"},
		"too many":             {zipped(t, many...), "more than 10000 files"},
		"declares too much":    {zipped(t, header("x.rego", '0', 33<<20)), "larger than 32 MB"},
		"is not all there":     {zipped(t, header("x.rego", '0', 30<<20)), "not a bundle"},
		"is followed":          {zipped(t, append(append(file("x.rego"), make([]byte, 1024)...), file("y.rego")...)), "data follows its end"},
		"is no archive":        {zipped(t, bytes.Repeat([]byte("x"), 512)), "not a bundle"},
		"is not packed":        {[]byte("package iam"), "not a bundle"},
		"has too many values":  {zipped(t, header("data.json", '0', 1<<20), bytes.Repeat([]byte(","), 1<<20)), "more than 1000000 values"},
	} {
		if err := policy.CheckArchive(c.packed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for name, packed := range map[string][]byte{
		"as OPA writes it": zipped(t, file("/.manifest"), file("/iam/x.rego")),
		"as tar does":      zipped(t, header("./", '5', 0), header("./iam/", '5', 0), file("./iam/x.rego"), file("./iam/..data.rego")),
		"as git does":      zipped(t, header("pax_global_header", 'g', 0), file("iam/x.rego")),
	} {
		if err := policy.CheckArchive(packed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The loader that follows reads no more than was looked at: several gzip members are one.
	var two bytes.Buffer
	for _, name := range []string{"a", "b"} {
		z := gzip.NewWriter(&two)
		w := tar.NewWriter(z)
		if err := w.WriteHeader(&tar.Header{Name: "iam/" + name, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := policy.CheckArchive(two.Bytes()); err == nil {
		t.Error("a second archive after the first is taken")
	}
}

// A few bytes do not make anything allocate what they only declare, whichever way they come.
func TestADecompressionBombIsRejectedBeforeItIsUnpacked(t *testing.T) { //nolint:paralleltest // it looks at what the whole process allocates
	bomb := sparse(t)
	if len(bomb) > 1000 {
		t.Fatalf("%d bytes are no small bomb", len(bomb))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := engine(t).Unpack("bomb", bomb)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "sparse") {
		t.Errorf("got %.200v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
		t.Errorf("it took %d MB to refuse %d bytes", took>>20, len(bomb))
	}
}
