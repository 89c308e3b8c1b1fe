package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tributary/deploy/world"
	"tributary/service/testenv"
)

// slots are hosts of nobody: containers come and go there, on the same addresses.
var slots = []world.Host{
	{Name: "back", Number: 12, Workload: "e2e/back", Instance: "back-1"},
	{Name: "slot1", Number: 21},
	{Name: "slot2", Number: 22},
	{Name: "slot3", Number: 23},
	{Name: "slot4", Number: 24},
}

// Containers run until shortLived of them have lived for less than short, or for patience: a busy machine has half as many by then at least. At most 1 % of all
// that ran may be unnamed, and none may have a wrong name.
const (
	shortLived = 200
	short      = 300 * time.Millisecond
	patience   = 90 * time.Second
)

// visit is one container's connection: from where it came, and who it was.
type visit struct{ from, container string }

// TestShortLivedContainers runs 200 real containers, and those that took longer, of five workloads on four addresses, each for a moment and one connection. Both
// ends of each are named after the container; none is named after another.
func TestShortLivedContainers(t *testing.T) {
	runc := testenv.NeedCommand(t, "runc", "apt-get install runc")
	testenv.NeedFile(t, "/bin/busybox", "apt-get install busybox-static")
	r := newRig(t, slots, false)
	file, err := os.OpenFile(r.identity(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, letter := range "abcde" {
		fmt.Fprintf(file, "  - workload: job/%c\n    container: %s-%c\n", letter, r.containerName(), letter)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // until it is read
	address, visits := r.visited()
	lives := r.runAll(runc, address)
	all := len(lives)
	brief, _ := slices.BinarySearch(lives, short)
	t.Logf("%d containers: half lived %v at most, the longest %v (runc included), %d less than %v", all, lives[all/2].Round(time.Millisecond), lives[all-1].Round(time.Millisecond), brief, short)
	if brief < shortLived/2 {
		t.Errorf("only %d containers lived for less than %v: this machine is too busy to test them", brief, short)
	}
	truth := map[visit]int{}
	for range lives {
		truth[<-visits]++
	}
	r.waitFor(uint64(all), soon, `SELECT count() FROM flows WHERE role = 'client' AND kind = 'closed' AND remote_why != 'pending' AND remote_workload = 'e2e/back' AND `+r.inWorld())
	r.waitFor(uint64(all), soon, `SELECT count() FROM flows WHERE role = 'server' AND kind = 'closed' AND remote_why != 'pending' AND local_workload = 'e2e/back' AND `+r.inWorld())
	r.checkVisits("local", truth, `role = 'client' AND remote_workload = 'e2e/back'`)
	r.checkVisits("remote", truth, `role = 'server' AND local_workload = 'e2e/back'`)
}

// checkVisits compares the names of one side with the truth.
func (r *rig) checkVisits(side string, truth map[visit]int, which string) {
	r.t.Helper()
	left, all, named, unnamed := map[visit]int{}, 0, 0, 0
	for v, n := range truth {
		left[v], all = n, all+n
	}
	query := strings.ReplaceAll(`SELECT SIDE_addr, SIDE_port, SIDE_workload, SIDE_instance, toString(SIDE_why) FROM flows WHERE kind = 'closed' AND `, "SIDE", side)
	for _, row := range r.rows(query + which + ` AND ` + r.inWorld()) {
		v := visit{address(r.t, row[0], row[1]).String(), row[3]}
		switch {
		case row[2] == "":
			r.t.Logf("unnamed: %v", row)
			unnamed++
		case left[v] > 0 && strings.HasPrefix(v.container, r.containerName()+"-"+strings.TrimPrefix(row[2], "job/")):
			left[v]--
			named++
		default:
			r.t.Errorf("wrong: %v", row)
		}
	}
	r.t.Logf("%s: %d named, %d unnamed", side, named, unnamed)
	if unnamed > all/100 || named+unnamed != all {
		r.t.Errorf("%s: of %d containers %d are named and %d are not", side, all, named, unnamed)
	}
}

func (r *rig) containerName() string { return fmt.Sprintf("trb%d", r.world.Run()) }

// visited serves in back: it reads who has come and says goodbye.
func (r *rig) visited() (address string, visits <-chan visit) {
	r.t.Helper()
	var l net.Listener
	err := r.world.In("back", func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(r.world.IPv4("back").String(), "0"))
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	seen := make(chan visit, 16*shortLived)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if name, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
				seen <- visit{conn.RemoteAddr().String(), strings.TrimSpace(name)}
			}
			conn.Close()
		}
	}()
	return l.Addr().String(), seen
}

// runAll runs the containers, one after the other in each slot, and returns how long they lived, sorted.
func (r *rig) runAll(runc, address string) []time.Duration {
	r.t.Helper()
	var wait sync.WaitGroup
	var mu sync.Mutex
	var lives []time.Duration
	brief, end := 0, time.Now().Add(patience)
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return brief >= shortLived || time.Now().After(end)
	}
	for s, slot := range slots[1:] {
		bundle := r.bundle(slot.Name)
		wait.Go(func() {
			for i := 0; !enough(); i++ {
				name := fmt.Sprintf("%s-%c-%d-%d", r.containerName(), "abcde"[i%5], s, i)
				life, err := r.runContainer(runc, bundle, name, slot.Name, address)
				if err != nil {
					r.t.Error(err)
					return
				}
				mu.Lock()
				lives = append(lives, life)
				if life < short {
					brief++
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if r.t.Failed() || len(lives) == 0 {
		r.t.FailNow()
	}
	slices.Sort(lives)
	return lives
}

// bundle makes a directory with a root file system of busybox alone.
func (r *rig) bundle(slot string) string {
	r.t.Helper()
	dir := filepath.Join(r.dir, slot)
	bin := filepath.Join(dir, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		r.t.Fatal(err)
	}
	from, err := os.Open("/bin/busybox")
	if err != nil {
		r.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(bin, "busybox"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		r.t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

// runContainer runs one container in the slot's network namespace: it says its name to the server and ends with the connection.
func (r *rig) runContainer(runc, bundle, name, slot, address string) (time.Duration, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	namespaces := []map[string]string{{"type": "network", "path": r.world.NamespacePath(slot)}}
	for _, kind := range []string{"pid", "ipc", "uts", "mount"} {
		namespaces = append(namespaces, map[string]string{"type": kind})
	}
	config, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2",
		"process":    map[string]any{"args": []string{"/bin/busybox", "sh", "-c", "echo " + name + " | /bin/busybox nc -w 5 " + host + " " + port}, "cwd": "/", "user": map[string]int{"uid": 0}},
		"root":       map[string]any{"path": "rootfs", "readonly": true},
		"mounts":     []map[string]string{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":      map[string]any{"namespaces": namespaces},
	})
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(r.ctx, runc, "run", "--bundle", bundle, name)
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("runc run %s: %w: %s", name, err, out)
	}
	return time.Since(began), nil
}
