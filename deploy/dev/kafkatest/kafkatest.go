// Package kafkatest gives a test one real Apache Kafka broker, started by deploy/dev/kafka.sh.
//
// Start shares one broker per test process: topics, not brokers, keep tests apart. New starts one of the caller's own, to be
// killed and restarted. A broker dies with the process that started it, however that ends (the kernel kills it), and its data
// directory is removed when its last user's cleanup runs. Where Java or Maven cannot be had the test is skipped, or fails
// under CI=true. The package is for tests only and knows no Kafka client but what it needs to see that the broker answers.
package kafkatest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tributary/deploy/dev/ports"
	"tributary/service/testenv"
)

const (
	// startTimeout covers the download of 43 MB of jars on a machine that has none yet.
	startTimeout = 5 * time.Minute
	// startedLine is what the broker logs when it serves.
	startedLine = "Kafka Server started"
)

// errPortTaken says that somebody else bound the controller's port between its choice and the broker's bind.
var errPortTaken = errors.New("a port of the broker is in use")

// Broker is one broker process with a data directory of its own. Its address stays the same over Kill and Restart.
type Broker struct {
	// Addr is the bootstrap address, 127.0.0.1:port.
	Addr string

	dir        string
	properties string
	cmd        *exec.Cmd
	exited     chan struct{}
}

// shared is the broker that Start hands out; it lives while a test that asked for it runs, or until Main ends.
type shared struct {
	mu     sync.Mutex
	users  int
	broker *Broker
}

// process is global because a test process, not a test, owns the broker; nothing outside this file reaches it.
var process shared

// Start returns the bootstrap address of this test process's broker, which it starts if none runs. The broker ends with the
// last test that uses it; a package that starts it in many tests saves 3 s a test by calling Main from its TestMain.
func Start(t testing.TB) string {
	t.Helper()
	process.mu.Lock()
	defer process.mu.Unlock()
	if process.broker == nil {
		process.broker = start(t, "")
	}
	process.users++
	t.Cleanup(process.leave)
	return process.broker.Addr
}

// Main runs the tests of a package and keeps the shared broker between them. The result is for os.Exit.
func Main(m *testing.M) int {
	process.mu.Lock()
	process.users++
	process.mu.Unlock()
	defer process.leave()
	return m.Run()
}

func (s *shared) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 && s.broker != nil {
		s.broker.remove()
		s.broker = nil
	}
}

// New starts a broker that only this test uses. properties are lines for its server.properties ("" for none), where PORT_
// stands for its port.
func New(t testing.TB, properties string) *Broker {
	t.Helper()
	b := start(t, properties)
	t.Cleanup(b.remove)
	return b
}

func start(t testing.TB, properties string) *Broker {
	t.Helper()
	needTools(t)
	// Not t.TempDir: the shared broker outlives the test that started it.
	dir, err := os.MkdirTemp("", "tributary-kafka-")
	if err != nil {
		t.Fatalf("make a directory for the broker: %v", err)
	}
	b := &Broker{dir: dir}
	if properties != "" {
		b.properties = filepath.Join(dir, "extra.properties")
		if err := os.WriteFile(b.properties, []byte(properties), 0o600); err != nil {
			t.Fatalf("write broker properties: %v", err)
		}
	}
	b.Addr = ports.Address(t)
	for range 3 { // the script chooses the controller's port, which somebody may take before the broker does
		if err = b.run(); err == nil || !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err != nil {
		b.remove()
		t.Fatalf("start Kafka: %v", err)
	}
	return b
}

// needTools ends the test where the script could not help itself: it installs what is missing only as root on Debian.
func needTools(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err == nil && os.Geteuid() == 0 {
		return
	}
	testenv.NeedCommand(t, "java", "install a Java runtime (Debian: apt-get install default-jre-headless)")
	testenv.NeedCommand(t, "mvn", "install Maven (Debian: apt-get install maven)")
}

// Kill ends the broker as a crash would (SIGKILL) and waits until it is gone. Its data stays.
func (b *Broker) Kill() {
	_ = b.cmd.Process.Kill()
	<-b.exited
}

// Restart starts a killed broker again on the same address and data, and waits until it serves.
func (b *Broker) Restart(t testing.TB) {
	t.Helper()
	if err := b.run(); err != nil {
		t.Fatalf("restart Kafka: %v", err)
	}
}

// Pause stops the broker's process without closing its connections; Resume lets it go on.
func (b *Broker) Pause() error { return b.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (b *Broker) Resume() error { return b.cmd.Process.Signal(syscall.SIGCONT) }

// CPU is the processor time (user and system) that the broker's present process has used.
func (b *Broker) CPU() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks time.Duration
	for _, f := range fields[11:13] { // utime and stime of proc(5), in ticks of 10 ms
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc stat: %w", err)
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond, nil
}

func (b *Broker) remove() {
	if b.cmd != nil {
		b.Kill()
	}
	_ = os.RemoveAll(b.dir)
}

// run starts the script, which becomes the broker, and waits until the broker's log says that it serves.
func (b *Broker) run() error {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return errors.New("the source directory is unknown")
	}
	script := filepath.Join(filepath.Dir(file), "..", "kafka.sh")
	_, port, err := net.SplitHostPort(b.Addr)
	if err != nil {
		return err
	}
	logFile := filepath.Join(b.dir, "kafka.log")
	if err := os.WriteFile(logFile, nil, 0o600); err != nil {
		return err
	}
	var stderr bytes.Buffer
	b.cmd = exec.Command(script, "run", b.dir, port)
	b.cmd.Env = append([]string{"KAFKA_JIT_LEVEL=1"}, append(os.Environ(), "KAFKA_PROPERTIES="+b.properties)...) // of two the last one counts
	b.cmd.Stderr = &stderr
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b.exited = make(chan struct{})
	if err := startTied(b.cmd, b.exited); err != nil {
		return fmt.Errorf("run %s: %w", script, err)
	}
	return b.wait(logFile, &stderr)
}

// startTied starts cmd from a thread that lives as long as cmd: the kernel sends the death signal when the *thread* that
// started the child ends, and Go ends threads as it likes.
func startTied(cmd *exec.Cmd, exited chan<- struct{}) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	return <-started
}

func (b *Broker) wait(logFile string, stderr *bytes.Buffer) error {
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-b.exited:
			log, _ := os.ReadFile(logFile)
			if bytes.Contains(log, []byte("Address already in use")) {
				return errPortTaken
			}
			if strings.Contains(stderr.String(), "is in use") {
				return errPortTaken
			}
			return fmt.Errorf("the broker ended: %s %s", strings.TrimSpace(stderr.String()), tail(log))
		case <-deadline.C:
			_ = b.cmd.Process.Kill()
			<-b.exited
			return fmt.Errorf("the broker did not serve within %s", startTimeout)
		case <-poll.C:
			log, err := os.ReadFile(logFile)
			if err == nil && bytes.Contains(log, []byte(startedLine)) {
				return nil
			}
		}
	}
}

// tail is the end of a log, for an error message.
func tail(log []byte) []byte {
	const keep = 500
	log = bytes.TrimSpace(log)
	return log[max(0, len(log)-keep):]
}
