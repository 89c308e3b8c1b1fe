package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// recorder stands in for a test that is expected to be skipped or failed.
type recorder struct {
	testing.TB
	outcome string
}

func (r *recorder) Helper() {}

func (r *recorder) Skip(args ...any) {
	r.outcome = "skip: " + fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.outcome = "fatal: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func outcome(t *testing.T, body func(t testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t, outcome: "ran"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		body(r)
	}()
	<-done
	return r.outcome
}

func TestUnmetNeedSkipsOnALaptopAndFailsInCI(t *testing.T) {
	present := filepath.Join(t.TempDir(), "present")
	if err := os.WriteFile(present, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		ci   string
		body func(t testing.TB)
		want string // prefix
	}{
		{"skip on a laptop", "", func(t testing.TB) { Skip(t, "no Kafka") }, "skip: no Kafka"},
		{"fail in CI", "true", func(t testing.TB) { Skip(t, "no Kafka") }, "fatal: this test may not be skipped under CI=true: no Kafka"},
		{"CI=1 counts", "1", func(t testing.TB) { Skip(t, "no Kafka") }, "fatal:"},
		{"CI=false does not", "false", func(t testing.TB) { Skip(t, "no Kafka") }, "skip:"},
		{"file present", "true", func(t testing.TB) { NeedFile(t, present, "run make engine") }, "ran"},
		{"file missing", "", func(t testing.TB) { NeedFile(t, present+"x", "run make engine") }, "skip: " + present + "x is missing or unreadable: run make engine"},
		{"command missing", "true", func(t testing.TB) { NeedCommand(t, "no-such-program", "install it") }, "fatal: this test may not"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("CI", c.ci)
			if got := outcome(t, c.body); !strings.HasPrefix(got, c.want) {
				t.Errorf("outcome %q, want prefix %q", got, c.want)
			}
		})
	}
}

func TestNeedRootFollowsTheEffectiveUser(t *testing.T) {
	t.Setenv("CI", "")
	want := "ran"
	if os.Geteuid() != 0 {
		want = "skip: this test needs root"
	}
	if got := outcome(t, func(t testing.TB) { NeedRoot(t) }); !strings.HasPrefix(got, want) {
		t.Errorf("outcome %q, want prefix %q", got, want)
	}
}
