package bpf

import (
	"os/exec"
	"testing"

	"tributary/service/testenv"
)

// TestObjectIsWhatTheSourcesMake compiles the kernel programs again and compares.
func TestObjectIsWhatTheSourcesMake(t *testing.T) {
	for _, tool := range []string{"clang-14", "llvm-strip-14"} {
		testenv.NeedCommand(t, tool, "apt-get install clang-14 llvm-14")
	}
	if out, err := exec.Command("./check.sh").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
