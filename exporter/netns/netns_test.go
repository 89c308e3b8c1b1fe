package netns

import (
	"errors"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	const own = "/proc/self/ns/net"
	var stat unix.Stat_t
	if err := unix.Stat(own, &stat); err != nil {
		t.Fatal(err)
	}
	f, err := Open(own, uint32(stat.Ino))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Open(own, uint32(stat.Ino)+1); !errors.Is(err, unix.ESTALE) {
		t.Errorf("another namespace: %v", err)
	}
	if _, err := Open("/proc/self/ns/none", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
