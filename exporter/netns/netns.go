// Package netns finds and opens network namespaces. A path that leads to one may lead to another a moment later, so that whoever uses it
// opens it with [Open], which makes sure that it is the one meant.
package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Own is the file that stands for this process's network namespace. It is not /proc/self/ns/net: that is the main thread's, and Go cannot end a main
// thread that entered another namespace. No goroutine runs on a thread that is not in ours, unless it has locked it.
const Own = "/proc/thread-self/ns/net"

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

// Inum returns the inode number of the network namespace at a path, if that is one and may be looked at: while a name is being made it is
// a plain file for a moment.
func Inum(path string) (uint32, bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return 0, false
	}
	var stat unix.Stat_t
	err := unix.Stat(path, &stat)
	return uint32(stat.Ino), err == nil
}
