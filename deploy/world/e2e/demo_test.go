package e2e

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tributary/service/testenv"
)

// The demo prints the whole map and leaves nothing behind.
func TestDemoOnce(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFile(t, engine(t), "run make engine")
	before := namespaces(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	began := time.Now()
	out, err := demo(ctx, t, "--once", "--patience", soon.String()).CombinedOutput()
	t.Logf("%v\n%s", time.Since(began), out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"(external)", "shop/cart-old", "shop/cart-new", "10.77."} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %s in the output", want)
		}
	}
	nothingLeft(t, before)
}

// After the map a path breaks: the alert with its verdict is shown, and its end.
func TestDemoIncident(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFile(t, engine(t), "run make engine")
	before := namespaces(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	cmd := demo(ctx, t)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	want := []string{"Who talks to whom", "A path breaks", "ALERT   shop/api cannot reach shop/cache:6379 any more (rejected)", "though a program listens", "RESOLVED shop/cache:6379"}
	for lines := bufio.NewScanner(out); len(want) > 0 && lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), want[0]) {
			want = want[1:]
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out) // until it ends
	if err := cmd.Wait(); err != nil || len(want) > 0 {
		t.Errorf("%v; not shown: %q\n%s", err, want, all.String())
	}
	nothingLeft(t, before)
}

// Ctrl-C at any moment ends everything.
func TestDemoInterrupted(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFile(t, engine(t), "run make engine")
	before := namespaces(t)
	for _, after := range []time.Duration{50 * time.Millisecond, time.Second, 6 * time.Second} {
		cmd := demo(t.Context(), t)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGINT && out.Len() == 0 {
			err = nil // on a busy machine, before its first statement
		}
		if err != nil {
			t.Errorf("after %v: %v\n%s", after, err, out.String())
		}
		nothingLeft(t, before)
	}
}

// demo is the demo program with the engine beside it.
func demo(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "tributary-demo"), args...)
	cmd.Env = append(os.Environ(), "TRIBUTARY_COLLECTOR_EMBEDDED_LIBRARY="+engine(t))
	return cmd
}

func namespaces(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/run/netns/trb*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// nothingLeft looks for namespaces and for processes of the programs. (BPF programs end with the process that holds them.)
func nothingLeft(t *testing.T, before []string) {
	t.Helper()
	if now := namespaces(t); len(now) > len(before) {
		t.Errorf("namespaces are left: %v, before: %v", now, before)
	}
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, programs+"/") {
			t.Errorf("a process is left: %s is %s", link, exe)
		}
	}
}
