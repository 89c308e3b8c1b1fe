package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// FS is the spool's directory. Names are plain file names in it.
type FS interface {
	// Lock makes the directory if needed and keeps every other spool out of it until the lock is closed. It is called
	// again after it failed or was closed. The lock is a file like any other, and stays: a run leaves word in it.
	Lock() (File, error)
	// List returns the regular files.
	List() ([]FileInfo, error)
	// Create makes a new file; it must not exist.
	Create(name string) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// Sync makes creations and removals survive a power cut.
	Sync() error
}

// File is one file of the directory.
type File interface {
	io.ReaderAt
	// WriteAt writes the parts one behind the other at off, wholly or with an error.
	WriteAt(off int64, parts ...[]byte) error
	Truncate(size int64) error
	// Sync makes what was written survive a power cut.
	Sync() error
	io.Closer
}

// FileInfo is a file's name and size.
type FileInfo struct {
	Name    string
	Size    int64
	Strange bool // no file: a directory, a link, a device; never opened
}

// ErrLocked is returned by Lock while another spool holds the directory.
var ErrLocked = errors.New("another exporter uses this spool directory")

const lockName = "lock"

// Dir returns the FS of a directory on this machine. It does nothing yet.
func Dir(path string) FS { return &dir{path: path} }

type dir struct {
	path string
	mu   sync.Mutex
	root *os.Root // nothing outside the directory is ever touched, whatever links are in it
}

func (d *dir) open() (*os.Root, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.root == nil {
		return nil, fs.ErrClosed
	}
	return d.root, nil
}

type dirLock struct {
	diskFile
	dir *dir
}

// Lock implements FS.
func (d *dir) Lock() (File, error) {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, err
	}
	file, err := root.OpenFile(lockName, os.O_RDWR|os.O_CREATE|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		_ = root.Close()
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		_ = root.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	d.mu.Lock()
	d.root = root
	d.mu.Unlock()
	return &dirLock{diskFile{file}, d}, nil
}

// Close gives the directory free.
func (l *dirLock) Close() error {
	l.dir.mu.Lock()
	defer l.dir.mu.Unlock()
	if l.dir.root == nil {
		return nil
	}
	_ = l.dir.root.Close()
	l.dir.root = nil
	return l.diskFile.Close()
}

// List implements FS.
func (d *dir) List() ([]FileInfo, error) {
	root, err := d.open()
	if err != nil {
		return nil, err
	}
	return list(root)
}

func list(root *os.Root) ([]FileInfo, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var files []FileInfo
	for _, e := range entries {
		info, err := e.Info()
		switch {
		case err != nil: // gone in between
		case info.Mode().IsRegular():
			files = append(files, FileInfo{Name: e.Name(), Size: info.Size()})
		default:
			files = append(files, FileInfo{Name: e.Name(), Strange: true})
		}
	}
	return files, nil
}

// Create implements FS.
func (d *dir) Create(name string) (File, error) {
	return d.file(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Open implements FS.
func (d *dir) Open(name string) (File, error) { return d.file(name, os.O_RDONLY) }

func (d *dir) file(name string, flags int) (File, error) {
	root, err := d.open()
	if err != nil {
		return nil, err
	}
	f, err := root.OpenFile(name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

// Rename implements FS.
func (d *dir) Rename(from, to string) error {
	root, err := d.open()
	if err != nil {
		return err
	}
	return root.Rename(from, to)
}

// Remove implements FS.
func (d *dir) Remove(name string) error {
	root, err := d.open()
	if err != nil {
		return err
	}
	return root.Remove(name)
}

// Sync implements FS.
func (d *dir) Sync() error {
	root, err := d.open()
	if err != nil {
		return err
	}
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

type diskFile struct{ *os.File }

// WriteAt implements File with one system call where the kernel takes all at once.
func (f diskFile) WriteAt(off int64, parts ...[]byte) error {
	for len(parts) > 0 {
		n, err := unix.Pwritev(int(f.Fd()), parts, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		off += int64(n)
		for len(parts) > 0 && n >= len(parts[0]) {
			n -= len(parts[0])
			parts = parts[1:]
		}
		if len(parts) > 0 && n > 0 {
			parts = append([][]byte{parts[0][n:]}, parts[1:]...)
		}
	}
	return nil
}

// Sync implements File.
func (f diskFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
