package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	webPort        = 9080
	webConnections = 16 // that wrk has open at a time
)

// nginxConfig serves a kilobyte. Its one worker has the processor of the load, by taskset.
const nginxConfig = `daemon off;
worker_processes 1;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server { listen %[2]d backlog=4096; location / { return 200 "%[3]s"; } }
}
`

// web is an nginx in a network namespace of its own, on the processor of the load.
type web struct {
	*child
	dir       string
	processor int
	worker    int // its pid
}

// startWeb says why there is none where nginx or wrk is not installed.
func startWeb(processor int) (w *web, err error) {
	for _, program := range []string{"nginx", "wrk"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s is not installed (apt-get install nginx-light wrk)", program)
		}
	}
	dir, err := os.MkdirTemp("", "overhead")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, webPort, strings.Repeat("x", answerBytes)), 0o644); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	shell := `ip link set lo up && echo 10000 >/proc/sys/net/ipv4/tcp_max_tw_buckets && echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range && exec taskset -c "$1" nginx -p "$2" -e "$2/error.log" -c "$2/nginx.conf"`
	w = &web{dir: dir, processor: processor}
	if w.child, err = startChild("unshare", "--net", "sh", "-c", shell, "sh", strconv.Itoa(processor), dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if w.worker = workerOf(w.pid()); w.worker != 0 {
			return w, nil
		}
		if time.Now().After(deadline) {
			w.stop()
			return nil, errors.New("nginx does not start")
		}
	}
}

// workerOf returns the only child of a process that is nginx by now, 0 if it has none: the shell before it has children too.
func workerOf(pid int) int {
	if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(name)) != "nginx" {
		return 0
	}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	child, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return child
}

func (w *web) stop() {
	w.child.stop()
	_ = os.RemoveAll(w.dir)
}

var (
	wrkRequests = regexp.MustCompile(`(?m)^\s*(\d+) requests in `)
	wrkTrouble  = regexp.MustCompile(`(?m)^\s*(Socket errors|Non-2xx).*$`)
)

// load has wrk ask nginx for d, with a connection for each request or with lasting ones; connections are requests then. Both share one processor, and the result has
// what both used.
func (w *web) load(keepAlive bool, d time.Duration) (loadResult, error) {
	seconds := strconv.Itoa(int(max(1, d.Round(time.Second).Seconds())))
	args := []string{"-t", strconv.Itoa(w.pid()), "-n", "taskset", "-c", strconv.Itoa(w.processor), "wrk", "-t1", "-c" + strconv.Itoa(webConnections), "-d" + seconds + "s"}
	if !keepAlive {
		args = append(args, "-H", "Connection: close")
	}
	before, err := usedBy(w.worker)
	if err != nil {
		return loadResult{}, err
	}
	began := time.Now()
	cmd := exec.Command("nsenter", append(args, fmt.Sprintf("http://127.0.0.1:%d/", webPort))...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return loadResult{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	r := loadResult{Wall: time.Since(began)}
	after, err := usedBy(w.worker)
	if err != nil {
		return r, err
	}
	r.CPU = after.cpu - before.cpu + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	found := wrkRequests.FindSubmatch(out)
	if trouble := wrkTrouble.Find(out); found == nil || trouble != nil {
		return r, fmt.Errorf("wrk did not do its work: %s", out)
	}
	r.Connections, err = strconv.Atoi(string(found[1]))
	return r, err
}
