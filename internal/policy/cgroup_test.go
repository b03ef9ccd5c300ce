package policy

import (
	"math"
	"testing"
	"testing/fstest"
)

// system is a file system with these files.
func system(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

func TestWhatIsLeftOfAContainersMemoryIsKnown(t *testing.T) {
	t.Parallel()
	const none = math.MaxInt64
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"another system": {nil, none},
		"version 2": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000\n", "sys/fs/cgroup/memory.current": "700\n", "sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 100\nactive_file 50\n",
		}, 400},
		"version 2, without a limit": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "700\n"}, none},
		"a group above has less": {map[string]string{
			"proc/self/cgroup": "0::/pod/one\n", "sys/fs/cgroup/pod/one/memory.max": "1000\n", "sys/fs/cgroup/pod/one/memory.current": "100\n",
			"sys/fs/cgroup/pod/memory.max": "900\n", "sys/fs/cgroup/pod/memory.current": "850\n",
		}, 50},
		"version 1": {map[string]string{
			"proc/self/cgroup": "5:cpu:/\n4:memory:/pod\n0::/\n", "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": "1000\n", "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": "900\n",
			"sys/fs/cgroup/memory/pod/memory.stat": "inactive_file 1\ntotal_inactive_file 30\n",
		}, 130},
		"version 1, seen from within": {map[string]string{
			"proc/self/cgroup": "4:cpu,memory:/docker/abc\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "900\n",
		}, 100},
		"version 1, without a limit": {map[string]string{
			"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "900\n",
		}, none},
	} {
		left, limited := memoryLeft(system(c.files))
		if left != c.want || limited != (c.want != none) {
			t.Errorf("%s: %d bytes, %v; want %d", name, left, limited, c.want)
		}
	}
}

// A child never takes more than half of what is left, also where several run.
func TestAChildTakesHalfOfWhatIsLeft(t *testing.T) {
	t.Parallel()
	of := func(limit string) *memoryBudget {
		return &memoryBudget{system: system(map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": limit, "sys/fs/cgroup/memory.current": "62914560\n", // 60 MB
		})}
	}
	m := of("268435456\n") // 256 MB
	first, giveBack, err := m.reserve()
	if err != nil || first != 98<<20 {
		t.Errorf("got %d MB, %v", first>>20, err)
	}
	second, _, err := m.reserve()
	if err != nil || second != 49<<20 {
		t.Errorf("next to another one: got %d MB, %v", second>>20, err)
	}
	giveBack()
	if third, _, err := m.reserve(); err != nil || third <= second {
		t.Errorf("after one has ended: got %d MB, %v", third>>20, err)
	}
	if most, _, err := of("max\n").reserve(); err != nil || most != maxChildMemory {
		t.Errorf("without a limit: got %d MB, %v", most>>20, err)
	}
	if _, _, err := of("125829120\n").reserve(); err == nil {
		t.Error("30 MB are enough")
	}
}
