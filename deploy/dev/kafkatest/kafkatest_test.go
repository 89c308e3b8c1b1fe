package kafkatest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

func TestBrokerAnswersAndSurvivesAKill(t *testing.T) {
	b := New(t, "num.partitions=7")
	client := &kafka.Client{Addr: kafka.TCP(b.Addr), Timeout: 10 * time.Second}
	ctx := context.Background()
	created, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{
		Topics: []kafka.TopicConfig{{Topic: "kept", NumPartitions: -1, ReplicationFactor: -1}},
	})
	if err != nil || created.Errors["kept"] != nil {
		t.Fatalf("create a topic: %v %v", err, created)
	}
	b.Kill()
	b.Restart(t)
	meta, err := (&kafka.Client{Addr: kafka.TCP(b.Addr), Timeout: 10 * time.Second, Transport: &kafka.Transport{}}).
		Metadata(ctx, &kafka.MetadataRequest{Topics: []string{"kept"}})
	if err != nil {
		t.Fatalf("metadata after the restart: %v", err)
	}
	if n := len(meta.Topics[0].Partitions); n != 7 {
		t.Fatalf("the topic has %d partitions after the restart, want the 7 that the extra property asks for", n)
	}
	if cpu, err := b.CPU(); err != nil || cpu <= 0 {
		t.Fatalf("CPU() = %v, %v", cpu, err)
	}
}

func TestSharedBrokerEndsWithItsLastUser(t *testing.T) {
	var addr, dir string
	t.Run("first", func(t *testing.T) {
		addr = Start(t)
		dir = process.broker.dir
		t.Run("nested", func(t *testing.T) {
			if again := Start(t); again != addr {
				t.Fatalf("a second Start gave %s, want the running %s", again, addr)
			}
		})
		if _, err := os.Stat(filepath.Join(dir, "pid")); err != nil {
			t.Fatalf("the broker left with its first user: %v", err)
		}
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatalf("%s is still there after the last user: %v", dir, err)
	}
}

// TestBrokerDiesWithAKilledTest runs this test again in a child, which starts a broker and is then killed.
func TestBrokerDiesWithAKilledTest(t *testing.T) {
	const inChild = "KAFKATEST_CHILD"
	if os.Getenv(inChild) != "" {
		b := New(t, "")
		fmt.Printf("broker %d %s\n", b.cmd.Process.Pid, b.dir)
		time.Sleep(time.Minute)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), inChild+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var dir string
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "broker "); ok {
			if _, err := fmt.Sscan(rest, &pid, &dir); err != nil {
				t.Fatalf("read %q: %v", rest, err)
			}
		}
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	if pid == 0 {
		t.Fatal("the child started no broker")
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for range 100 {
		cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err != nil || len(cmdline) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	t.Fatalf("the broker, process %d, outlived the killed test", pid)
}
