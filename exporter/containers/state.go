package containers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

const (
	maxState = 1 << 20
	maxName  = 200 // of each part of a workload's name
)

// Container is one container that runs, as its runtime describes it.
type Container struct {
	ID     string
	Pod    string // UID of its pod, "" none
	Cgroup string // directory of its cgroup (v2), "" unknown
	// Netns is the inode number of its network namespace if that is its own or its pod's: 0 where it was put into one that others use
	// before and after it.
	Netns uint32

	Workload string // namespace/name; "" if nothing names it
	Instance string // the pod's UID, else the container's id
	Release  string
}

// state is what we read of runc's state.json (libcontainer's State). Config.Labels are the annotations, "key=value".
type state struct {
	ID      string            `json:"id"`
	Pid     int               `json:"init_process_pid"`
	Start   uint64            `json:"init_process_start"` // in clock ticks since boot, as in /proc/PID/stat
	Cgroups map[string]string `json:"cgroup_paths"`
	Config  struct {
		Labels     []string `json:"labels"`
		Namespaces []struct {
			Type string `json:"type"`
			Path string `json:"path"` // "" where the runtime made it
		} `json:"namespaces"`
	} `json:"config"`
}

var errForm = errors.New("this is no state of a container")

// parseState reads a state file. space is the namespace that the runtime keeps the container in.
func parseState(data []byte, space string) (Container, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return Container{}, fmt.Errorf("%w: %w", errForm, err)
	}
	if !isName(s.ID) || s.Pid < 0 {
		return Container{}, errForm
	}
	c := Container{ID: s.ID, Instance: s.ID}
	if dir := s.Cgroups[""]; filepath.IsAbs(dir) && filepath.Clean(dir) == dir {
		c.Cgroup = dir
	}
	notes := map[string]string{}
	for _, label := range s.Config.Labels {
		if key, value, ok := strings.Cut(label, "="); ok {
			notes[key] = value
		}
	}
	c.name(notes, space)
	if c.Pod != "" || s.ownNetwork() {
		c.Netns = netnsOf(s.Pid, s.Start)
	}
	return c, nil
}

func (s *state) ownNetwork() bool {
	for _, n := range s.Config.Namespaces {
		if n.Type == "NEWNET" {
			return n.Path == ""
		}
	}
	return false // the host's
}

// netnsOf returns the network namespace of a process, 0 if there is none that began at that moment: a state file can be older
// than whoever has the number now.
func netnsOf(pid int, start uint64) uint32 {
	dir := "/proc/" + strconv.Itoa(pid)
	info, err := os.Stat(dir + "/ns/net")
	if err != nil {
		return 0
	}
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0
	}
	// The second field, the program's name, is in brackets and may hold anything; the 22nd is the start.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[19] != strconv.FormatUint(start, 10) {
		return 0
	}
	return uint32(info.Sys().(*syscall.Stat_t).Ino)
}

// The annotations by which runtimes say what a container is: of a pod as containerd's and CRI-O's kubelet interface writes them.
var podNotes = [...]struct{ uid, namespace, name string }{
	{"io.kubernetes.cri.sandbox-uid", "io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name"},
	{"io.kubernetes.pod.uid", "io.kubernetes.pod.namespace", "io.kubernetes.pod.name"},
}

// name calls the container by its pod, by the name that its user gave it, or not at all: an id that the runtime has drawn is
// no workload.
func (c *Container) name(notes map[string]string, space string) {
	for _, p := range podNotes {
		namespace, name := notes[p.namespace], notes[p.name]
		if isName(namespace) && isName(name) {
			c.Workload = namespace + "/" + name
			if uid := notes[p.uid]; isUID(uid) {
				c.Pod, c.Instance = uid, uid
			}
			return
		}
	}
	if name := notes["nerdctl/name"]; isName(name) && isName(space) {
		c.Workload = space + "/" + name
		return
	}
	if isName(space) && containerID(c.ID) == "" {
		c.Workload = space + "/" + c.ID
	}
}

// isName reports whether a text can be half of a workload's name.
func isName(s string) bool {
	odd := func(r rune) bool { return r == '/' || r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, odd)
}

// readFile reads a regular file of at most most bytes. A pipe in its place holds up nobody.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is longer than %d bytes", path, most)
	}
	return data, err
}

// parseDocker reads what Docker says of a container of its own (config.v2.json): a service of a compose project, else its name.
func parseDocker(data []byte, host string) (workload string) {
	var d struct {
		Name   string
		Config struct{ Labels map[string]string }
	}
	if json.Unmarshal(data, &d) != nil {
		return ""
	}
	project, service := d.Config.Labels["com.docker.compose.project"], d.Config.Labels["com.docker.compose.service"]
	if isName(project) && isName(service) {
		return project + "/" + service
	}
	if name := strings.TrimPrefix(d.Name, "/"); isName(name) && isName(host) {
		return host + "/" + name
	}
	return ""
}
