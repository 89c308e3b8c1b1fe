package privilege

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tributary/service/testenv"
)

const childEnv = "TRIBUTARY_PRIVILEGE_TEST_CHILD"

// TestMain is also the child, which can give up its privileges without taking them from the tests.
func TestMain(m *testing.M) {
	trial := os.Getenv(childEnv)
	if trial == "" {
		os.Exit(m.Run())
	}
	works := func() error {
		if trial == "needed" {
			return errors.New("it does not work without")
		}
		return nil
	}
	if err := Reduce(Of(unix.CAP_NET_ADMIN), Of(unix.CAP_BPF), works); err != nil {
		fmt.Println(err)
		os.Exit(0)
	}
	held, err := Held()
	fmt.Println(held, err)
}

// What is kept is kept, what is on trial only where it is needed, and all else is gone.
func TestReduce(t *testing.T) {
	testenv.NeedRoot(t)
	for trial, want := range map[string]string{"needed": "net_admin,bpf <nil>", "needless": "net_admin <nil>"} {
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), childEnv+"="+trial)
		out, err := child.CombinedOutput()
		got := strings.TrimSpace(string(out))
		if strings.Contains(got, syscall.ENOTSUP.Error()) {
			t.Skip("built with cgo (the race detector): threads that Go does not know of would keep theirs")
		}
		if err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", trial, got, err, want)
		}
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[Set]string{0: "none", Of(unix.CAP_BPF): "bpf", Of(unix.CAP_NET_ADMIN, unix.CAP_CHOWN): "0,net_admin"} {
		if got := s.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
