// Package netns opens network namespaces.
package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open opens the network namespace at path if its inode number is inum, else it fails with ESTALE: a path of a process leads elsewhere when
// another has taken the process's number.
func Open(path string, inum uint32) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %d: %w", inum, err)
	}
	var stat unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &stat); err == nil && uint32(stat.Ino) != inum {
		err = unix.ESTALE
	}
	if err != nil {
		_ = f.Close() // nothing was written to it
		return nil, fmt.Errorf("open network namespace %d: %w", inum, err)
	}
	return f, nil
}
