// Package files writes small files that must not be lost or half there, and keeps those who read a file again and again from what is none.
package files

import (
	"errors"
	"os"
	"path/filepath"
)

// ErrIrregular says that a path leads to something else than a file.
var ErrIrregular = errors.New("not a regular file")

// Stat describes the file that a path leads to. Anything else is ErrIrregular: to open a FIFO waits for a writer, for good if there is none, and a device may have no end.
func Stat(path string) (os.FileInfo, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "stat", Path: path, Err: ErrIrregular}
	}
	return info, err
}

// Write writes a file whole or not at all, for its owner alone. When it returns the file is there after a loss of power too. A crash on the
// way may leave a file beside it whose name begins with a dot.
func Write(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone by then if all went well
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
