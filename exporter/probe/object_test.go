package probe

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tributary/service/testenv"
)

// TestObjectIsWhatTheSourcesMake compiles the kernel programs again and compares.
func TestObjectIsWhatTheSourcesMake(t *testing.T) {
	for _, tool := range []string{"clang-14", "llvm-strip-14"} {
		testenv.NeedCommand(t, tool, "apt-get install clang-14 llvm-14")
	}
	// read here what the script reads, or go test would not know that its cached result is stale
	sources, err := filepath.Glob("../../bpf/*.[ch]")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(sources, "../../bpf/generate.sh", "../../bpf/check.sh", "../../bpf/capture_bpfel.o") {
		if _, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("../../bpf/check.sh").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
