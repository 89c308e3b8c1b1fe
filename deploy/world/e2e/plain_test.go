package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	serverArg = "e2e-plain-server"
	clientArg = "e2e-plain-client"

	plainConnections = 23
)

// A plain machine, no identity file: both ends of a loopback connection are named after their programs.
func TestPlainHost(t *testing.T) {
	r := newPlainRig(t)
	r.plainTraffic()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	r.waitFor(plainConnections, soon, fmt.Sprintf(`SELECT count() FROM flows WHERE role = 'client'
		AND local_workload = '%[1]s/plain-client' AND remote_workload = '%[1]s/plain-server'`, name))
	r.waitFor(plainConnections, soon, fmt.Sprintf(`SELECT count() FROM flows WHERE role = 'server'
		AND local_workload = '%[1]s/plain-server' AND remote_workload = '%[1]s/plain-client'`, name))
	r.checkBooks()
}

// plainTraffic lets one program open plainConnections connections to another.
func (r *rig) plainTraffic() {
	t := r.t
	t.Helper()
	server := r.plain("plain-server", serverArg)
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if out, err := r.plain("plain-client", clientArg, strings.TrimSpace(address)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// plain is this test binary under another name, doing one of the two jobs below.
func (r *rig) plain(comm string, args ...string) *exec.Cmd {
	r.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	link := filepath.Join(r.dir, comm)
	if err := os.Symlink(exe, link); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.CommandContext(r.ctx, link, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// plainChild does what the arguments say and exits; in the test process itself it returns.
func plainChild() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == serverArg:
		err = plainServer()
	case len(os.Args) == 3 && os.Args[1] == clientArg:
		err = plainClient(os.Args[2])
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func plainServer() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		io.Copy(conn, conn)
		conn.Close()
	}
}

func plainClient(address string) error {
	for i := range plainConnections {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		if _, err := conn.Write(make([]byte, 10+i)); err != nil {
			return err
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		if n, err := io.Copy(io.Discard, conn); err != nil || n != int64(10+i) {
			return errors.Join(err, fmt.Errorf("echo of %d bytes", n))
		}
		conn.Close()
	}
	return nil
}
