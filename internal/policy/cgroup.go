package policy

import (
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
	"sync"
)

// Bounds of a child's heap, in bytes.
const (
	maxChildMemory = 256 << 20
	minChildMemory = 32 << 20 // the default policy needs less than half of it
)

type memoryBudget struct {
	system fs.FS // the root of the file system

	mu       sync.Mutex
	reserved int64 // to children that run; under mu
}

// reserve reserves memory for a child: half of what is left within the container's limit. The
// other half covers what the child allocates before it is stopped, and the service itself: a
// kernel that kills one process of a container may kill all of them (memory.oom.group).
func (m *memoryBudget) reserve() (limit int64, giveBack func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	limit = maxChildMemory
	if left, limited := memoryLeft(m.system); limited {
		limit = min(limit, (left-m.reserved)/2)
	}
	if limit < minChildMemory {
		return 0, nil, fmt.Errorf("half of the memory left in the container is %d MB, the check needs %d MB", max(limit, 0)>>20, minChildMemory>>20)
	}
	m.reserved += limit
	return limit, func() {
		m.mu.Lock()
		m.reserved -= limit
		m.mu.Unlock()
	}, nil
}

// memoryLeft is how many bytes this process and its children may still take by the limits of
// its control groups (versions 1 and 2); false: there is no limit.
func memoryLeft(system fs.FS) (left int64, limited bool) {
	left = math.MaxInt64
	groups, err := fs.ReadFile(system, "proc/self/cgroup")
	if err != nil {
		return left, false // another system
	}
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var root, most, used, cache string
		switch {
		case parts[0] == "0" && parts[1] == "":
			root, most, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "
		case strings.Contains(","+parts[1]+",", ",memory,"):
			root, most, used, cache = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "
		default:
			continue
		}
		// Each parent group limits too. A container often sees its own group as the root, under
		// which the path in /proc does not exist.
		for at := path.Clean("/" + parts[2]); ; at = path.Dir(at) {
			dir := path.Join(root, at)
			limit, ok1 := number(system, path.Join(dir, most))
			usage, ok2 := number(system, path.Join(dir, used))
			if ok1 && ok2 && limit < math.MaxInt64/2 { // version 1 writes a huge number for "none"
				left, limited = min(left, limit-usage+reclaimable(system, path.Join(dir, "memory.stat"), cache)), true
			}
			if at == "/" {
				break
			}
		}
	}
	return left, limited
}

// number reads a file with a number; "max" is none.
func number(system fs.FS, name string) (int64, bool) {
	text, err := fs.ReadFile(system, name)
	if err != nil {
		return 0, false // no such group, or no limits
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// reclaimable is the part of the usage that is inactive file cache: the kernel reclaims it
// before it kills a process.
func reclaimable(system fs.FS, name, field string) int64 {
	text, err := fs.ReadFile(system, name)
	if err != nil {
		return 0 // a lower limit is safe
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, field); ok {
			bytes, _ := strconv.ParseInt(strings.TrimSpace(n), 10, 64) // none: as above
			return bytes
		}
	}
	return 0
}
