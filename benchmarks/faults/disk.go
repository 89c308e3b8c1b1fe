package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// disk is an ext4 file system in a file, which can be filled, and lose its power.
type disk struct {
	image, dir string // the file behind it, and where it is mounted
	loop       string // its device
	cuts       int
	mu         sync.Mutex // the file system is mounted, and as full as it is, while one has it
}

// newDisk makes a file system of a size in an image beside where it is mounted.
func newDisk(dir string, bytes int64) (*disk, error) {
	d := &disk{image: dir + ".image", dir: dir}
	f, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := command("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", d.image); err != nil {
		return nil, err
	}
	return d, d.mount()
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (d *disk) mount() error {
	out, err := exec.Command("losetup", "--find", "--show", d.image).Output()
	if err != nil {
		return fmt.Errorf("losetup: %w", err)
	}
	d.loop = strings.TrimSpace(string(out))
	if err := unix.Mount(d.loop, d.dir, "ext4", 0, "discard"); err != nil {
		return errors.Join(fmt.Errorf("mount %s: %w", d.image, err), command("losetup", "--detach", d.loop))
	}
	return nil
}

// leftMost is how long those who used the disk may take to be gone: a killed process closes its files a moment after it is dead.
const leftMost = 10 * time.Second

// close unmounts. The image stays.
func (d *disk) close() error {
	err := unix.Unmount(d.dir, 0)
	for end := time.Now().Add(leftMost); errors.Is(err, unix.EBUSY) && time.Now().Before(end); time.Sleep(5 * ms) {
		err = unix.Unmount(d.dir, 0)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("unmount %s: %w", d.dir, err), unix.Unmount(d.dir, unix.MNT_DETACH), command("losetup", "--detach", d.loop))
	}
	return command("losetup", "--detach", d.loop)
}

// ballast is what takes the space. It is made and removed while the file system is mounted: a power cut takes that away for a while.
func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill takes all space that is left.
func (d *disk) fill() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	end := int64(0)
	for step := int64(64 << 20); step >= 1024; {
		err := unix.Fallocate(int(f.Fd()), 0, end, step)
		switch {
		case err == nil:
			end += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		default:
			return fmt.Errorf("fill %s: %w", d.dir, err)
		}
	}
	return nil
}

// free gives the space back, unless a power cut did.
func (d *disk) free() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Remove(d.ballast()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// snapshot copies the image as a power cut would leave it. Those who write have stopped; where the kernel still wrote while we copied, it is done again,
// because a disk that loses its power is of one moment.
func (d *disk) snapshot() (string, error) {
	d.cuts++
	to := fmt.Sprintf("%s.%d", strings.TrimRight(d.image, ".0123456789"), d.cuts)
	for range 50 {
		before, err := d.written()
		if err != nil {
			return "", err
		}
		if err := copySparse(to, d.image); err != nil {
			return "", err
		}
		after, err := d.written()
		if err != nil || before != "" && after == before {
			return to, err
		}
	}
	return "", fmt.Errorf("%s is written to all the time", d.image)
}

// written is how much the file system has written to its device; "" while it writes.
func (d *disk) written() (string, error) {
	text, err := os.ReadFile("/sys/block/" + filepath.Base(d.loop) + "/stat")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 9 || fields[8] != "0" { // requests under way
		return "", nil
	}
	return fields[6], nil // sectors written
}

// resume goes on from a snapshot. Nobody has a file open.
func (d *disk) resume(snapshot string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.close(); err != nil {
		return err
	}
	if err := os.Remove(d.image); err != nil {
		return err
	}
	d.image = snapshot
	return d.mount()
}

// copySparse copies a file and leaves its holes.
func copySparse(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		begin, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // there is no more
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, begin), io.NewSectionReader(in, begin, end-begin)); err != nil {
			return err
		}
		at = end
	}
}
