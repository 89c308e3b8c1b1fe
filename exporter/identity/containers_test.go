package identity

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"tributary/exporter/mounts"
	"tributary/proto/flow"
	"tributary/service/testenv"
)

// told is a runtime's word.
type told struct {
	changed chan struct{}
	running []Container
	pods    map[string]Container
}

func (t *told) Running() []Container     { return t.running }
func (t *told) Changed() <-chan struct{} { return t.changed }

func (t *told) Find(id, pod string) (Container, bool) {
	for _, c := range t.running {
		if c.ID == id && c.Workload != "" {
			return c, true
		}
	}
	c, ok := t.pods[pod]
	return c, ok
}

const containerID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// Containers are named by the file's entries, else by what runtimes and pods say; a cgroup that is gone keeps its name, also where
// the runtime told of it only then.
func TestContainers(t *testing.T) {
	testenv.NeedRoot(t)
	root := mounts.CgroupRoot()
	if root == "" {
		testenv.Skip(t, "no cgroup v2 hierarchy is mounted")
	}
	top := filepath.Join(root, fmt.Sprintf("tbic%d", os.Getpid()))
	mkdir := func(parts ...string) (dir string, id uint64) {
		t.Helper()
		dir = filepath.Join(append([]string{top}, parts...)...)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		id, err := inode(dir)
		if err != nil {
			t.Fatal(err)
		}
		return dir, id
	}
	const uid = "8f5cba6e-7d1c-4a4e-9f3a-0d6a5e1b2c3d"
	runtime := &told{changed: make(chan struct{}, 1), pods: map[string]Container{uid: {Workload: "shop/web", Instance: uid, Release: "2"}}}
	b, _ := newBook(t, Options{Containers: runtime}, "workloads:\n- {workload: s/hex, container: 01234567}\n- {workload: s/job, container: job-, instance: fixed}\n")
	running(t, b)
	is := func(id uint64, workload, instance string) func() bool {
		return func() bool {
			owner, _ := b.Local(Socket{CgroupID: id, StartNs: time.Now().UnixNano() - int64(time.Minute)})
			return owner.Workload == workload && owner.Instance == instance && (workload == "" || owner.Evidence == flow.EvidenceCgroup)
		}
	}
	mkdir()
	_, scope := mkdir("docker-" + containerID + ".scope")
	eventually(t, "an id in a scope's name", is(scope, "s/hex", containerID))
	_, plain := mkdir("job-1")
	eventually(t, "an entry with an instance", is(plain, "s/job", "fixed"))
	_, service := mkdir("job-2.service")
	mkdir("pod" + uid)
	_, inPod := mkdir("pod"+uid, containerID[1:]+"0")
	eventually(t, "a pod", is(inPod, "shop/web", uid))
	if !is(service, "", "")() {
		t.Error("a unit is taken for a container")
	}
	late, lateID := mkdir("late")
	eventually(t, "the new cgroup is noticed", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.presence.places[late].cgroup == lateID })
	if err := os.Remove(late); err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	runtime.running = []Container{{ID: "late", Cgroup: late, Workload: "default/late", Instance: "late"}}
	b.mu.Unlock()
	runtime.changed <- struct{}{}
	eventually(t, "a container whose cgroup is gone", is(lateID, "default/late", "late"))
	time.Sleep(pollEvery + 200*time.Millisecond)
	if !is(lateID, "default/late", "late")() {
		t.Error("its name is forgotten")
	}
}

// The hierarchy is walked until all of it is watched, and then only where something in it has gone.
func TestCgroupsAreWalkedSeldom(t *testing.T) {
	b, _ := newBook(t, Options{Containers: &told{}}, "")
	b.names.root = t.TempDir()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watcher.Close() }()
	w := &watched{watcher: watcher, dirs: map[string]bool{}, partial: true}
	walks := func() bool {
		before := w.walked
		b.lookAtFiles(w)
		return w.walked != before
	}
	dir := filepath.Join(b.names.root, "a")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if first, second, third := walks(), walks(), walks(); !first || !second || third {
		t.Errorf("walked %t, %t and %t, want it once more after directories were added", first, second, third)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	for event := range watcher.Events {
		if b.notified(w, event); w.partial {
			break
		}
	}
	if !walks() || w.dirs[dir] || b.presence.places[dir].cgroup != 0 {
		t.Errorf("a directory that has gone is still watched (%t) or placed (%+v)", w.dirs[dir], b.presence.places[dir])
	}
	if w.walked = time.Now().Add(-walkEvery); !walks() {
		t.Error("no walk after a long time")
	}
}
