package policy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Bounds of a bundle, in bytes unless they say otherwise.
const (
	MaxBundle   = 32 << 20 // packed, and of one file in it
	maxUnpacked = 64 << 20 // all files together: by their headers, and as unpacked
	maxFiles    = 10_000   // entries

	// A value takes many times its text in memory.
	maxValues = 1_000_000 // commas and brackets, and lines, in all files together
)

// CheckArchive walks a packed bundle before anything else reads it. OPA's loader allocates
// what a header declares, and a sparse file's header can declare any size. The walk holds
// one header at a time, and uses the loader's own parser, so that both read an archive alike.
func CheckArchive(packed []byte) error {
	if len(packed) > MaxBundle {
		return fmt.Errorf("it is larger than %d MB", MaxBundle>>20)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("it is not a bundle (.tar.gz): %w", err)
	}
	unpacked := &counter{r: z}
	err = checkEntries(tar.NewReader(unpacked))
	if err == nil {
		err = unpacked.rest()
	}
	if unpacked.err != nil { // clearer than tar's own error
		return unpacked.err
	}
	return err
}

func checkEntries(archive *tar.Reader) error {
	var declared int64
	seen := map[string]bool{}
	for n := 0; ; n++ {
		h, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("it is not a bundle (.tar.gz): %w", err)
		case n == maxFiles:
			return fmt.Errorf("it has more than %d files", maxFiles)
		}
		for record := range h.PAXRecords {
			if strings.HasPrefix(record, "GNU.sparse.") {
				return fmt.Errorf("%q is a sparse file, which is not allowed", h.Name)
			}
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader: // git archive's comment
			continue
		case tar.TypeReg, tar.TypeDir:
		default:
			return fmt.Errorf("%q is neither a file nor a folder: links, devices and sparse files are not allowed", h.Name)
		}
		if h.Size > MaxBundle {
			return fmt.Errorf("%q is larger than %d MB", h.Name, MaxBundle>>20)
		}
		if declared += h.Size; declared > maxUnpacked {
			return tooLargeUnpacked()
		}
		name, err := entryName(h.Name)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if seen[name] {
			return fmt.Errorf("it contains %q twice", name)
		}
		seen[name] = true
		if path.Base(name) == "patch.json" {
			return fmt.Errorf("%q makes it a delta bundle, which has no signature: send the whole policy", name)
		}
	}
}

// entryName is the path of an entry below the root of the bundle. OPA writes the root as /,
// and tar as ./.
func entryName(name string) (string, error) {
	below := strings.TrimPrefix(name, "/")
	switch {
	case strings.HasPrefix(below, "/"), strings.Contains(below, `\`), strings.Contains("/"+below+"/", "/../"):
		return "", fmt.Errorf("%q is not a path below the root of the bundle", name)
	}
	return path.Clean(below), nil
}

func tooLargeUnpacked() error {
	return fmt.Errorf("it is larger than %d MB unpacked", maxUnpacked>>20)
}

// counter counts bytes, lines, and roughly the values that are read through it. It fails at
// the bounds.
type counter struct {
	r                   io.Reader
	bytes, begun, lines int
	err                 error // at a bound; nil: none was reached
}

func (c *counter) Read(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(b)
	c.bytes += n
	c.begun += bytes.Count(b[:n], []byte{','}) + bytes.Count(b[:n], []byte{'['}) + bytes.Count(b[:n], []byte{'{'})
	c.lines += bytes.Count(b[:n], []byte{'\n'})
	switch {
	case c.bytes > maxUnpacked:
		c.err = tooLargeUnpacked()
	case c.begun > maxValues || c.lines > maxValues: // a line of YAML can be a value
		c.err = fmt.Errorf("it has more than %d values", maxValues)
	default:
		return n, err
	}
	return 0, c.err
}

// rest reads what follows the archive: only zeros are allowed, since parsers differ on anything else.
func (c *counter) rest() error {
	var buf [32 << 10]byte
	for {
		n, err := c.Read(buf[:])
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return errors.New("data follows its end")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is not a bundle (.tar.gz): %w", err)
		}
	}
}
