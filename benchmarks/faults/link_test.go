package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tributary/service/testenv"
)

// echo answers each line with itself, and counts them.
func echo(t *testing.T, lines chan<- string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewReader(c); ; {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					lines <- line
					if _, err := c.Write([]byte(line)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func ask(c net.Conn, line string) (string, error) {
	if _, err := c.Write([]byte(line)); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// TestLink: what passes, what does not, and what counts as a cut before the answer.
func TestLink(t *testing.T) {
	lines := make(chan string, 100)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	k, err := newLink("test", "127.0.0.1:0", dead.Addr().String(), echo(t, lines))
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", k.address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(30 * time.Second))
		return c
	}
	long := strings.Repeat("x", request) + "\n"
	asks, idle := dial(), dial()
	for _, c := range []net.Conn{asks, idle} {
		if got, err := ask(c, "a\n"); got != "a\n" || err != nil {
			t.Fatalf("%q %v", got, err)
		}
		<-lines
	}
	swallowed := make(chan struct{})
	go func() {
		k.fail(Swallow, 2*time.Second)
		close(swallowed)
	}()
	eventually(t, "it swallows", func() bool {
		return !slices.ContainsFunc(k.present(), func(p *pair) bool { return !p.swallows.Load() })
	})
	if got, err := ask(asks, long); err == nil {
		t.Errorf("an answer passed: %d bytes", len(got))
	}
	if got := <-lines; got != long {
		t.Error("the request did not pass")
	}
	<-swallowed
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && err == nil {
		t.Error("a connection without a request is still open")
	}
	if n := k.cuts.Load(); n != 1 {
		t.Errorf("%d cuts before an answer, want 1: nothing was asked on the other connection", n)
	}
	go k.fail(OneWay, 300*ms)
	eventually(t, "nothing comes back", func() bool { return k.blindness() != nil })
	if got, err := ask(dial(), "b\n"); got != "b\n" || err != nil || k.blindness() != nil {
		t.Errorf("one way: %q %v, blind: %v; want it whole, and when the fault is over", got, err, k.blindness() != nil)
	}
}

// TestPowerCut: what was synced is there afterwards, what was only written is not.
func TestPowerCut(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedCommand(t, "mkfs.ext4", "install e2fsprogs")
	testenv.NeedCommand(t, "losetup", "install mount")
	d, err := newDisk(filepath.Join(t.TempDir(), "disk"), 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	}()
	unix.Sync()
	for name, synced := range map[string]bool{"synced": true, "written": false} {
		f, err := os.Create(filepath.Join(d.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("text"); err != nil {
			t.Fatal(err)
		}
		if synced {
			err = f.Sync()
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.fill(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "more"), make([]byte, 64<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk says %v", err)
	}
	if err := d.free(); err != nil {
		t.Fatal(err)
	}
	copied, err := d.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.resume(copied); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(d.dir, "synced")); string(text) != "text" {
		t.Errorf("what was synced is %q: %v", text, err)
	}
	if text, _ := os.ReadFile(filepath.Join(d.dir, "written")); len(text) != 0 {
		t.Errorf("what was only written is there: %q", text)
	}
}
