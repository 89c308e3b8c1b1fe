package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"tributary/exporter/clock"
	"tributary/service/config"
	"tributary/service/files"
)

const (
	pollEvery = 2 * time.Second       // looks at the file even where no notification comes (network file systems)
	walkEvery = 30 * time.Second      // walks the cgroups even where each is watched and none has gone: 100 of them take a millisecond
	quiet     = 20 * time.Millisecond // after the last event: a file written in place is whole then
	tick      = 10 * time.Millisecond // how coarse a file's times are (CONFIG_HZ_100 has the longest)
	maxDirs   = 4096                  // directories that are watched
)

// stamp tells one state of a file from the next.
type stamp struct {
	missing  bool
	dev, ino uint64
	size     int64
	modified int64
	changed  int64 // ctime: a rename sets it too
}

func stampOf(path string) (stamp, error) {
	info, err := files.Stat(path)
	if err != nil {
		return stamp{missing: true}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return stamp{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, modified: st.Mtim.Nano(), changed: st.Ctim.Nano()}, nil
}

// load reads a file and says which state of it that was: one that did not change while it was read.
func load(path string) (*file, stamp, error) {
	for range 3 {
		before, err := stampOf(path)
		if err != nil {
			return nil, before, fmt.Errorf("identity file %s: %w", path, bare(err))
		}
		data, err := config.ReadFile("identity file", path, maxFileBytes)
		if err != nil {
			return nil, before, err
		}
		if after, err := stampOf(path); err == nil && after == before {
			f, err := parse(path, data)
			return f, after, err
		}
		time.Sleep(quiet)
	}
	return nil, stamp{}, fmt.Errorf("identity file %s: it changes while it is read", path)
}

func bare(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// watched are the directories in which changes are notified.
type watched struct {
	watcher *fsnotify.Watcher
	dirs    map[string]bool
	partial bool      // not all that should be are among them, or something in them has gone since the last walk of the cgroups
	walked  time.Time // when that was
}

// add watches a directory, if there is room.
func (w *watched) add(dir string) {
	switch {
	case w.dirs[dir]:
	case w.watcher.Events != nil && len(w.dirs) < maxDirs && w.watcher.Add(dir) == nil:
		w.dirs[dir] = true
	default:
		w.partial = true
	}
}

// watchFiles reloads the identity file when it changes, and looks at the cgroups when one is made, until ctx ends.
func (b *Book) watchFiles(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		b.log.Warn("files cannot be watched and are looked at every two seconds", "error", err)
		watcher = &fsnotify.Watcher{}
	} else {
		defer func() { _ = watcher.Close() }()
	}
	w := &watched{watcher: watcher, dirs: map[string]bool{}, partial: true}
	var containersChanged <-chan struct{} // nil: never
	if b.opts.Containers != nil {
		containersChanged = b.opts.Containers.Changed()
	}
	settled, beat := time.NewTimer(0), time.NewTimer(clock.Beat(pollEvery))
	defer settled.Stop()
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			if b.notified(w, event) {
				settled.Reset(quiet)
			}
		case <-containersChanged:
			b.containersChanged()
		case err := <-watcher.Errors: // an overflow, say: look
			b.log.Debug("file notifications were lost", "error", err)
			w.partial = true
			settled.Reset(quiet)
		case <-beat.C:
			beat.Reset(clock.Beat(pollEvery))
			b.lookAtFiles(w)
		case <-settled.C:
			b.lookAtFiles(w)
		}
	}
}

// notified takes one event and returns whether the file may have changed.
func (b *Book) notified(w *watched, event fsnotify.Event) (file bool) {
	switch {
	case !b.isCgroup(event.Name):
		return true
	case event.Has(fsnotify.Create):
		b.cgroupMade(event.Name, w.add)
	case event.Has(fsnotify.Remove):
		delete(w.dirs, event.Name) // the kernel has dropped the watch with the directory
		w.partial = true
	}
	return false
}

// isCgroup tells the events of the hierarchy, of which only new directories matter at once (every process that moves writes to a file
// there, and what is gone shows at the next walk), from those of the identity file's directories.
func (b *Book) isCgroup(name string) bool {
	return b.names.root != "" && strings.HasPrefix(name, b.names.root+"/")
}

// lookAtFiles brings the file up to date and, where notifications may not have told all, the cgroups, and watches the directories where the next
// change will show.
func (b *Book) lookAtFiles(w *watched) {
	walk := w.partial || time.Since(w.walked) >= walkEvery-pollEvery/2
	for dir := range w.dirs {
		if walk || !b.isCgroup(dir) {
			if _, err := os.Lstat(dir); err != nil {
				delete(w.dirs, dir)
			}
		}
	}
	if b.opts.File != "" {
		walk = b.reload() || walk // it may speak of cgroups that nobody watches yet
		// The directory of the name and that of what it leads to: either is where a file is replaced.
		w.add(filepath.Dir(b.opts.File))
		if target, err := filepath.EvalSymlinks(b.opts.File); err == nil {
			w.add(filepath.Dir(target))
		}
	}
	if walk {
		b.walkAndWatch(w)
	}
}

func (b *Book) walkAndWatch(w *watched) {
	b.mu.Lock()
	dirs := b.findCgroups()
	b.rebind(b.clock().wall)
	b.mu.Unlock()
	w.partial, w.walked = false, time.Now()
	before := len(w.dirs)
	for _, dir := range dirs {
		w.add(dir)
	}
	w.partial = w.partial || len(w.dirs) != before // something may have been made in those before they were watched
}
