package containers

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	uid   = "8f5cba6e-7d1c-4a4e-9f3a-0d6a5e1b2c3d"
)

func TestPathsOfRuntimes(t *testing.T) {
	for path, want := range map[string][2]string{
		"/docker/" + hex64:                                               {hex64},
		"/system.slice/docker-" + hex64 + ".scope":                       {hex64},
		"/machine.slice/libpod-" + hex64 + ".scope/container":            {hex64},
		"/machine.slice/libpod-conmon-" + hex64 + ".scope":               {},
		"/kubepods/burstable/pod" + uid + "/" + hex64:                    {hex64, uid},
		"/kubepods/pod" + strings.ReplaceAll(uid, "-", "") + "/" + hex64: {hex64, strings.ReplaceAll(uid, "-", "")},
		"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/cri-containerd-" + hex64 + ".scope": {hex64, uid},
		"/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/crio-" + hex64 + ".scope":                                                {hex64, uid},
		"/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/crio-conmon-" + hex64 + ".scope":                                         {"", uid},
		"/kubepods.slice/kubepods-burstable.slice": {},
		"/system.slice/nginx.service":              {},
		"/docker/" + hex64[1:]:                     {},
		"/docker/" + strings.ToUpper(hex64):        {},
		"/default/web":                             {},
		"/podinfo":                                 {},
		"":                                         {},
	} {
		if id, pod := FromPath(path); id != want[0] || pod != want[1] {
			t.Errorf("%s: container %q, pod %q", path, id, pod)
		}
	}
}

func FuzzFromPath(f *testing.F) {
	f.Add("/kubepods/pod" + uid + "/" + hex64)
	f.Add("/system.slice/docker-" + hex64 + ".scope")
	f.Fuzz(func(t *testing.T, path string) {
		id, pod := FromPath(path)
		if id != "" && (len(id) != 64 || !strings.Contains(path, id)) || pod != "" && !isUID(pod) {
			t.Errorf("%q: %q, %q", path, id, pod)
		}
	})
}

func stateOf(id string, notes ...string) []byte {
	data, _ := json.Marshal(map[string]any{
		"id": id, "init_process_pid": os.Getpid(), "init_process_start": 1, "cgroup_paths": map[string]string{"": "/sys/fs/cgroup/x/" + id, "cpu": "/c"},
		"config": map[string]any{"labels": append(notes, "bundle=/b")},
	})
	return data
}

func TestNamesOfContainers(t *testing.T) {
	for _, c := range []struct {
		id    string
		notes []string
		want  Container
	}{
		{"web", nil, Container{Workload: "space/web", Instance: "web"}},
		{hex64, nil, Container{Instance: hex64}},
		{hex64, []string{"nerdctl/name=api"}, Container{Workload: "space/api", Instance: hex64}},
		{
			hex64,
			[]string{"io.kubernetes.cri.sandbox-uid=" + uid, "io.kubernetes.cri.sandbox-namespace=shop", "io.kubernetes.cri.sandbox-name=web-0"},
			Container{Workload: "shop/web-0", Instance: uid, Pod: uid},
		},
		{
			hex64,
			[]string{"io.kubernetes.pod.uid=" + uid, "io.kubernetes.pod.namespace=shop", "io.kubernetes.pod.name=web-0"},
			Container{Workload: "shop/web-0", Instance: uid, Pod: uid},
		},
		{hex64, []string{"io.kubernetes.pod.namespace=a/b", "io.kubernetes.pod.name=web\x00"}, Container{Instance: hex64}},
	} {
		got, err := parseState(stateOf(c.id, c.notes...), "space")
		c.want.ID, c.want.Cgroup = c.id, "/sys/fs/cgroup/x/"+c.id
		if err != nil || got != c.want { // the process's start is not 1: its number was used before
			t.Errorf("%s %q: %+v %v", c.id, c.notes, got, err)
		}
	}
	docker := `{"Name":"/web","Config":{"Labels":{"com.docker.compose.project":"shop","com.docker.compose.service":"api"}}}`
	if got := parseDocker([]byte(docker), "host"); got != "shop/api" {
		t.Errorf("compose: %q", got)
	}
	if got := parseDocker([]byte(`{"Name":"/web"}`), "host"); got != "host/web" {
		t.Errorf("docker: %q", got)
	}
}

func FuzzParseState(f *testing.F) {
	f.Add(stateOf("web", "nerdctl/name=api"))
	f.Add([]byte(`{"id":"a/b"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseState(data, "space")
		if err == nil && (!isName(c.ID) || c.Workload != "" && strings.Count(c.Workload, "/") != 1) {
			t.Errorf("%+v", c)
		}
		_ = parseDocker(data, "host")
	})
}

const podListOf = `{"kind":"PodList","items":[
{"metadata":{"uid":"` + uid + `","name":"web-7f9c5d-x2k1v","namespace":"shop","labels":{"pod-template-hash":"7f9c5d","app.kubernetes.io/version":"1.2"},
 "ownerReferences":[{"kind":"ReplicaSet","name":"web-7f9c5d","controller":true}]}},
{"metadata":{"uid":"11111111-7d1c-4a4e-9f3a-0d6a5e1b2c3d","name":"db-0","namespace":"shop","ownerReferences":[{"kind":"StatefulSet","name":"db","controller":true}]}},
{"metadata":{"uid":"22222222-7d1c-4a4e-9f3a-0d6a5e1b2c3d","name":"etcd-node1","namespace":"kube-system","annotations":{"kubernetes.io/config.hash":"0123456789abcdef0123456789abcdef"},
 "ownerReferences":[{"kind":"Node","name":"node1","controller":true}]}},
{"metadata":{"uid":"nonsense","name":"x","namespace":"y"}}]}`

func TestNamesOfPods(t *testing.T) {
	pods, err := parsePods([]byte(podListOf))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Pod{
		uid:                                    {"shop/web", uid, "1.2"},
		"11111111-7d1c-4a4e-9f3a-0d6a5e1b2c3d": {"shop/db", "11111111-7d1c-4a4e-9f3a-0d6a5e1b2c3d", ""},
		"22222222-7d1c-4a4e-9f3a-0d6a5e1b2c3d": {"kube-system/etcd-node1", "22222222-7d1c-4a4e-9f3a-0d6a5e1b2c3d", ""},
		"0123456789abcdef0123456789abcdef":     {"kube-system/etcd-node1", "22222222-7d1c-4a4e-9f3a-0d6a5e1b2c3d", ""},
	}
	if fmt.Sprint(pods) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", pods, want)
	}
	for _, bad := range []string{"", "{}", `{"kind":"Pod"}`, `{"kind":"PodList","items":3}`} {
		if _, err := parsePods([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a PodList", bad)
		}
	}
}

func FuzzParsePods(f *testing.F) {
	f.Add([]byte(podListOf))
	f.Fuzz(func(t *testing.T, data []byte) {
		pods, _ := parsePods(data)
		for id, p := range pods {
			if !isUID(id) || strings.Count(p.Workload, "/") != 1 {
				t.Errorf("%q: %+v", id, p)
			}
		}
	})
}

// rig is a watcher of directories that the test fills.
type rig struct {
	*testing.T
	*Watcher
	root, nested, pods string
}

func newRig(t *testing.T) *rig {
	dir := t.TempDir()
	r := &rig{T: t, root: filepath.Join(dir, "runc"), nested: filepath.Join(dir, "containerd"), pods: filepath.Join(dir, "pods.json")}
	r.write(r.pods, podListOf)
	var err error
	r.Watcher, err = New(Options{Host: "host", Roots: []string{r.root}, Nested: []string{r.nested}, Docker: filepath.Join(dir, "docker"), Pods: r.pods},
		prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Watcher.Run(t.Context()) }()
	t.Cleanup(func() { <-done })
	return r
}

// write replaces a file as runtimes do: whole or not at all.
func (r *rig) write(path, text string) {
	r.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) until(what string, is func() bool) {
	r.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("never: %s", what)
		}
	}
}

// Containers come and go; the names of those that are gone stay.
func TestContainersComeAndGo(t *testing.T) {
	r := newRig(t)
	r.write(filepath.Join(r.root, "web", stateFile), string(stateOf("web")))
	r.write(filepath.Join(r.nested, "moby", hex64, stateFile), string(stateOf(hex64, "nerdctl/name=api")))
	r.until("two run", func() bool { return len(r.Running()) == 2 })
	if c, ok := r.Find("web", ""); !ok || c.Workload != "host/web" {
		t.Errorf("web: %+v %v", c, ok)
	}
	if c, ok := r.Find(hex64, ""); !ok || c.Workload != "moby/api" {
		t.Errorf("api: %+v %v", c, ok)
	}
	if c, ok := r.Find(hex64, uid); !ok || c.Workload != "shop/web" || c.Instance != uid || c.Release != "1.2" {
		t.Errorf("in a pod: %+v %v", c, ok)
	}
	if _, ok := r.Find("nobody", ""); ok {
		t.Error("who is nobody?")
	}
	if err := os.RemoveAll(filepath.Join(r.root, "web")); err != nil {
		t.Fatal(err)
	}
	r.until("one runs", func() bool { return len(r.Running()) == 1 })
	if c, ok := r.Find("web", ""); !ok || c.Workload != "host/web" {
		t.Errorf("after its end: %+v %v", c, ok)
	}
}

// A container that is stopped and started again between two looks is in another cgroup; one whose state is only written again is not.
func TestContainerStartsAgain(t *testing.T) {
	root := t.TempDir()
	r := &rig{T: t}
	state := filepath.Join(root, "web", stateFile)
	r.write(state, string(stateOf("web")))
	var err error
	if r.Watcher, err = New(Options{Roots: []string{root}, Docker: root}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	nowhere := func(string) {}
	r.write(state, string(stateOf("web")))
	if r.look(nowhere) {
		t.Error("the same again is a change")
	}
	if err := os.RemoveAll(filepath.Dir(state)); err != nil {
		t.Fatal(err)
	}
	r.write(state, strings.ReplaceAll(string(stateOf("web")), "/sys/fs/cgroup/x/", "/sys/fs/cgroup/again/"))
	if changed, got := r.look(nowhere), r.Running(); !changed || len(got) != 1 || got[0].Cgroup != "/sys/fs/cgroup/again/web" {
		t.Errorf("%+v, %v", got, changed)
	}
	if r.look(nowhere) {
		t.Error("nothing has changed")
	}
}

// What is broken, endless or no file is counted and holds up nothing.
func TestBadFiles(t *testing.T) {
	r := newRig(t)
	r.write(filepath.Join(r.root, "broken", stateFile), "{")
	r.write(filepath.Join(r.root, "endless", stateFile), strings.Repeat("x", maxState+1))
	if err := os.MkdirAll(filepath.Join(r.root, "pipe"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(r.root, "pipe", stateFile), 0o600); err != nil {
		t.Fatal(err)
	}
	r.write(filepath.Join(r.root, "good", stateFile), string(stateOf("good")))
	r.until("the good one is there", func() bool { return len(r.Running()) == 1 })
	r.until("three are counted", func() bool { return r.errors.Load() == 3 })
	r.write(r.pods, `{"kind":"PodList","items":[`)
	r.until("the broken list is counted", func() bool { return r.errors.Load() == 4 })
	if c, ok := r.Find("", uid); !ok || c.Workload != "shop/web" {
		t.Errorf("the old list is not in force: %+v %v", c, ok)
	}
	r.write(r.pods, strings.ReplaceAll(podListOf, "shop", "mall"))
	r.until("the new list is in force", func() bool { c, _ := r.Find("", uid); return c.Workload == "mall/web" })
	if n := r.errors.Load(); n != 4 {
		t.Errorf("%d errors are counted, some again and again", n)
	}
}

// The API's pods have the names that the file's have, and keep them.
func TestPodsOfTheAPI(t *testing.T) {
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal([]byte(podListOf), &list); err != nil {
		t.Fatal(err)
	}
	w, err := New(Options{Roots: []string{t.TempDir()}, Docker: t.TempDir()}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	sink := &podSink{w: w, present: map[string]struct{}{}}
	objects := make([]runtime.Object, len(list.Items))
	for i := range list.Items {
		objects[i] = &list.Items[i]
	}
	sink.Replace(objects)
	want, err := parsePods([]byte(podListOf))
	if err != nil {
		t.Fatal(err)
	}
	sameNames := func() {
		t.Helper()
		for id, pod := range want {
			if got, ok := w.Find("", id); !ok || got.Workload != pod.Workload || got.Instance != pod.Instance || got.Release != pod.Release {
				t.Errorf("%s: %+v, want %+v", id, got, pod)
			}
		}
	}
	sameNames()
	if w.pods != 3 || w.errors.Load() != 1 {
		t.Errorf("%d pods and %d errors", w.pods, w.errors.Load())
	}
	<-w.Changed()
	sink.Set(objects[0]) // as when its status changes
	select {
	case <-w.Changed():
		t.Error("what is known is told as news")
	default:
	}
	sink.Gone(objects[0])
	sink.Replace(nil)
	sameNames()
	if w.pods != 0 {
		t.Errorf("%d pods", w.pods)
	}
}
