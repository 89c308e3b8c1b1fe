package containers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/clock"
	"tributary/service/kubernetes"
	"tributary/service/log"
)

const (
	lookEvery     = 2 * time.Second
	maxContainers = 4096
	stateFile     = "state.json"
)

// Options say where to look. Zero values stand for where Debian, Docker and containerd keep their things.
type Options struct {
	Host string // in front of the names of containers that no runtime keeps in a namespace
	// Roots are directories with a directory for each container; Nested ones have one for each namespace in between.
	Roots, Nested []string
	Docker        string // Docker's directory of its containers
	Pods          string // file with a PodList, "" none
	// Kubernetes tells of this node's pods in the place of the file; nil none.
	Kubernetes *kubernetes.Client
	Node       string // its name there
}

func (o Options) withDefaults() Options {
	if o.Roots == nil && o.Nested == nil {
		o.Roots = []string{"/run/runc"}
		o.Nested = []string{"/run/containerd/runc", "/run/docker/runtime-runc"}
	}
	if o.Docker == "" {
		o.Docker = "/var/lib/docker/containers"
	}
	return o
}

// running is a container, and its state file as it was read.
type running struct {
	container Container
	state     fs.FileInfo
}

// Watcher keeps the containers of this host. All its methods may be called from any goroutine.
type Watcher struct {
	opts    Options
	log     *slog.Logger
	changed chan struct{}

	mu    sync.Mutex
	byDir map[string]running              // by the directory of the state file
	seen  *lru.Cache[string, Container]   // by id; those that ended too
	bad   *lru.Cache[string, fs.FileInfo] // state files that could not be used, as they were
	names *lru.Cache[string, Pod]         // by UID; those that ended too
	pods  int                             // how many there are
	stamp fs.FileInfo                     // of the PodList

	errors atomic.Uint64
	api    *kubernetes.Follower // nil none
}

// New returns a watcher that has looked once.
func New(opts Options, registerer prometheus.Registerer, logger *slog.Logger) (*Watcher, error) {
	w := &Watcher{
		opts: opts.withDefaults(), log: log.Limited(logger.With(log.Component, "containers"), 10*time.Second),
		changed: make(chan struct{}, 1), byDir: make(map[string]running),
	}
	var err error
	if w.seen, err = lru.New[string, Container](maxContainers); err != nil {
		return nil, err
	}
	if w.bad, err = lru.New[string, fs.FileInfo](maxContainers); err != nil {
		return nil, err
	}
	if w.names, err = lru.New[string, Pod](2 * maxPods); err != nil { // a static pod has two
		return nil, err
	}
	if opts.Pods != "" {
		if err := w.readPods(); err != nil {
			return nil, err
		}
	}
	if opts.Kubernetes != nil {
		w.api = kubernetes.Follow("pods of node "+opts.Node, PodsOf(opts.Kubernetes, opts.Node), &podSink{w: w, present: map[string]struct{}{}}, w.log)
	}
	w.look(func(string) {})
	if err := registerer.Register(w); err != nil {
		return nil, fmt.Errorf("register the metrics of containers: %w", err)
	}
	return w, nil
}

// Changed receives after something has changed; one message can stand for many changes.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Running returns the containers that run.
func (w *Watcher) Running() []Container {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]Container, 0, len(w.byDir))
	for _, r := range w.byDir {
		out = append(out, w.named(r.container))
	}
	slices.SortFunc(out, func(a, b Container) int { return compare(a.ID, b.ID) })
	return out
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// Find returns what is known of a container by its id, its pod's UID, or both as a cgroup's path has them.
func (w *Watcher) Find(id, pod string) (Container, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, known := w.seen.Get(id)
	if !known {
		c = Container{ID: id, Instance: id}
	}
	if pod != "" {
		c.Pod, c.Instance = pod, pod
	}
	c = w.named(c)
	return c, c.Workload != ""
}

// named prefers what the PodList or the API says to what the runtime knows: it has the pod's controller. The caller holds mu.
func (w *Watcher) named(c Container) Container {
	if p, ok := w.names.Get(c.Pod); ok {
		c.Workload, c.Instance, c.Release = p.Workload, p.Instance, p.Release
	}
	return c
}

func (w *Watcher) tell() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	var following sync.WaitGroup
	defer following.Wait()
	if w.api != nil {
		following.Go(func() { w.api.Run(ctx) })
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("containers cannot be watched and are looked for every two seconds: short-lived ones may be missed", "error", err)
		notify = &fsnotify.Watcher{}
	} else {
		defer func() { _ = notify.Close() }()
	}
	watch := func(dir string) {
		if notify.Events != nil {
			_ = notify.Add(dir) // gone, or no room: the tick looks anyway
		}
	}
	w.refresh(watch)
	beat := time.NewTimer(clock.Beat(lookEvery))
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-notify.Events:
			drain(notify.Events)
		case <-notify.Errors: //nolint:errcheck // an overflow, say: look
		case <-beat.C:
			beat.Reset(clock.Beat(lookEvery))
		}
		w.refresh(watch)
	}
}

// drain takes what has come meanwhile: one look is enough for all.
func drain(events <-chan fsnotify.Event) {
	for {
		select {
		case <-events:
		default:
			return
		}
	}
}

func (w *Watcher) refresh(watch func(string)) {
	changed := w.look(watch)
	if w.opts.Pods != "" {
		watch(filepath.Dir(w.opts.Pods))
		if w.podsChanged() {
			if err := w.readPods(); err != nil {
				w.errors.Add(1)
				w.log.Error("the file of pods cannot be used, the last one stays in force", "error", err)
			} else {
				changed = true
			}
		}
	}
	if changed {
		w.tell()
	}
}

// look compares the directories with what is known. Each is watched where the next change will show.
func (w *Watcher) look(watch func(string)) (changed bool) {
	present := map[string]bool{}
	visit := func(root, space string) {
		watch(root)
		for _, name := range subdirectories(root) {
			dir := filepath.Join(root, name)
			present[dir] = true
			if len(present) <= maxContainers {
				changed = w.read(dir, space, watch) || changed
			}
		}
	}
	for _, root := range w.opts.Roots {
		visit(root, w.opts.Host)
	}
	for _, root := range w.opts.Nested {
		watch(root)
		for _, space := range subdirectories(root) {
			visit(filepath.Join(root, space), space)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir := range w.byDir {
		if !present[dir] {
			delete(w.byDir, dir)
			changed = true
		}
	}
	return changed
}

// subdirectories returns at most as many as there may be containers.
func subdirectories(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil // there are none, or they are not ours to see
	}
	defer f.Close()
	entries, _ := f.ReadDir(2 * maxContainers) // what was read before an error counts
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

// read reads the state of a container that is not known yet, or whose state is another: one that was stopped and started again between two
// looks has the same directory, and another cgroup and namespace.
func (w *Watcher) read(dir, space string, watch func(string)) (changed bool) {
	w.mu.Lock()
	known, ok := w.byDir[dir]
	w.mu.Unlock()
	if !ok {
		watch(dir) // before it is read: the state may come now
	}
	path := filepath.Join(dir, stateFile)
	info, err := os.Stat(path)
	if err != nil {
		return false // it is being made, or is gone
	}
	if ok && same(known.state, info) {
		return false
	}
	if was, ok := w.bad.Get(path); ok && same(was, info) {
		return false
	}
	if ok {
		watch(dir) // which may be another of that name
	}
	data, err := readFile(path, maxState)
	var c Container
	if err == nil {
		c, err = parseState(data, space)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			w.bad.Add(path, info)
			w.errors.Add(1)
			w.log.Warn("the state of a container cannot be used: it has no name", "error", err, "file", path)
		}
		return false
	}
	if c.Workload == "" && containerID(c.ID) != "" {
		if data, err := readFile(filepath.Join(w.opts.Docker, c.ID, "config.v2.json"), maxState); err == nil {
			c.Workload = parseDocker(data, w.opts.Host)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byDir[dir] = running{c, info}
	w.seen.Add(c.ID, c)
	return c != known.container
}

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func (w *Watcher) podsChanged() bool {
	info, err := os.Stat(w.opts.Pods)
	w.mu.Lock()
	defer w.mu.Unlock()
	return err == nil && (w.stamp == nil || !same(w.stamp, info))
}

// readPods reads the file of pods; one that cannot be used is not read again until it changes.
func (w *Watcher) readPods() error {
	info, err := os.Stat(w.opts.Pods)
	if err != nil {
		return fmt.Errorf("file of pods: %w", err)
	}
	data, err := readFile(w.opts.Pods, maxPodList)
	var pods map[string]Pod
	if err == nil {
		pods, err = parsePods(data)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stamp = info
	if err != nil {
		return fmt.Errorf("file of pods %s: %w", w.opts.Pods, err)
	}
	w.pods = len(pods)
	for uid, pod := range pods {
		w.names.Add(uid, pod)
	}
	return nil
}
