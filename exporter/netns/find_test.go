package netns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tributary/service/testenv"
)

// A namespace is found by a process that was in it, and where that is gone by any that is.
func TestPath(t *testing.T) {
	own, ok := Inum(Own)
	if !ok {
		t.Fatal("the own network namespace has no number")
	}
	if got, want := Path(own, uint32(os.Getpid())), fmt.Sprintf("/proc/%d/ns/net", os.Getpid()); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if inum, ok := Inum(Path(own, 1<<30)); !ok || inum != own {
		t.Errorf("without the process: %q", Path(own, 1<<30))
	}
	if got := Path(1, 0); got != "" {
		t.Errorf("what is no namespace is at %q", got)
	}
}

func TestAll(t *testing.T) {
	own, _ := Inum(Own)
	for _, only := range []uint32{0, own} {
		all, err := All(only)
		if err != nil || len(all) == 0 || all[0] != (Namespace{own, Own}) || only != 0 && len(all) != 1 {
			t.Errorf("only %d: %v, %v", only, all, err)
		}
	}
	if all, err := All(1); err != nil || len(all) != 0 {
		t.Errorf("one that does not exist: %v, %v", all, err)
	}
}

// A namespace in which no process lives is found at its mount, unless another mount hides it.
func TestMounted(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	names := [2]string{filepath.Join(dir, "a b"), filepath.Join(dir, "hidden")}
	inums := [2]uint32{}
	for i, name := range names {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("unshare", "-n", "sh", "-c", `mount --bind /proc/self/ns/net "$0"`, name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() { _ = unix.Unmount(name, unix.MNT_DETACH) })
		var ok bool
		if inums[i], ok = Inum(name); !ok {
			t.Fatalf("nothing at %s", name)
		}
	}
	if err := unix.Mount(Own, names[1], "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(names[1], unix.MNT_DETACH) })
	found := map[uint32]string{}
	all, err := All(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range all {
		found[at.Inum] = at.Path
	}
	if found[inums[0]] != names[0] || found[inums[1]] != "" || Path(inums[0], 0) != names[0] {
		t.Errorf("%q, %q, %q", found[inums[0]], found[inums[1]], Path(inums[0], 0))
	}
}
