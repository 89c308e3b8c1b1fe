package ownership

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// TestAdvise: the kernel is asked for huge pages where a whole one fits, and nothing else happens to a slice.
func TestAdvise(t *testing.T) {
	if modes, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled"); err != nil || !strings.Contains(string(modes), "[madvise]") {
		t.Skip("this kernel gives huge pages to all or to nobody")
	}
	advise([]uint64(nil))
	advise(make([]uint64, 1))
	words := make([]uint64, 3*hugePage/8)
	words[0], words[len(words)-1] = 1, 2
	advise(words)
	if words[0] != 1 || words[len(words)-1] != 2 {
		t.Error("the slice has changed")
	}
	if middle := uintptr(unsafe.Pointer(&words[len(words)/2])); !asked(t, middle) {
		t.Errorf("no huge pages are asked for at %x", middle)
	}
}

// asked says whether the mapping that an address is in has the kernel's flag for huge pages.
func asked(t *testing.T, addr uintptr) bool {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	here := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			here = from <= addr && addr < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && here {
			return strings.Contains(flags, " hg")
		}
	}
	return false
}
