// Package testenv says what a test needs from the machine it runs on: root, a program, a file, a server.
//
// On a laptop a test whose need is not met is skipped, with the reason in words. Under CI=true the same need is a failure:
// a suite that skips what it was built to prove would be green for the wrong reason. The room promises nothing else; it
// starts no server and cleans nothing up.
package testenv

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// Skip ends the test because of reason: skipped on a laptop, failed where the environment says CI=true.
// The reason is a sentence that tells the reader what to install, start or set.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if inCI(os.Getenv) {
		t.Fatalf("this test may not be skipped under CI=true: %s", reason)
	}
	t.Skip(reason)
}

// NeedRoot ends the test unless the process runs as uid 0 (eBPF programs, network namespaces, cgroups).
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "this test needs root; run it with sudo, or run the whole suite with: sudo make test")
	}
}

// NeedFile ends the test unless path can be read; howToGet completes the sentence "… is missing: ", e.g. "run make engine".
func NeedFile(t testing.TB, path, howToGet string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		Skip(t, path+" is missing or unreadable: "+howToGet)
	}
	_ = f.Close()
}

// NeedCommand ends the test unless name is an executable on PATH, and returns its path; howToGet is as in NeedFile.
func NeedCommand(t testing.TB, name, howToGet string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, "the program "+name+" is not on PATH: "+howToGet)
	}
	return path
}

// inCI reads CI the way the common CI systems set it: any true value of strconv.ParseBool.
func inCI(getenv func(string) string) bool {
	ci, err := strconv.ParseBool(getenv("CI"))
	return err == nil && ci
}
