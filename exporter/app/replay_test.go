package app

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tributary/exporter/batch"
	"tributary/exporter/event"
	"tributary/exporter/recording"
	"tributary/proto/flow"
	"tributary/service/testenv"
)

// writeRecording makes a recording of n closed connections, with one record between them that is none, and returns its path.
func writeRecording(t *testing.T, n int, closed bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "recording")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := recording.NewWriter(f, recording.Header{Host: "far", BootID: "boot", RecordBytes: event.RecordSize})
	if err != nil {
		t.Fatal(err)
	}
	w.Anchor(1_790_000_000_000_000_000)
	label := (&recorder{labels: map[batch.Local][]byte{}}).label(batch.Local{Network: "n", Workload: "a/b", Evidence: flow.EvidenceSocket})
	for i := range n {
		r := closedRecord(uint64(i + 1))
		w.Record(r.Encode(), label)
	}
	w.Record(make([]byte, event.RecordSize), nil)
	w.Record(func() []byte { r := closedRecord(uint64(n + 1)); return r.Encode() }(), []byte(`{"Workload":"bad\u0000name"}`))
	w.Sweep()
	if closed {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A recording is told with no root and no kernel: every row once, with the recorded name and host, marked, under a run of its own.
func TestReplay(t *testing.T) {
	c := startCollector(t)
	file := writeRecording(t, 2500, true)
	if err := Replay(t.Context(), testConfig(t, c.address), file, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
		t.Fatal(err)
	}
	named, _, _ := c.count(func(r row) bool { return r.workload == "a/b" && r.network == "n" && r.replay && r.comm == "curl" })
	all, _, _ := c.count(func(row) bool { return true })
	if named != 2500 || all != 2501 {
		t.Errorf("%d rows, %d of them with the recorded name", all, named)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.host != "far" || len(c.said) != 0 || c.exporter == "" {
		t.Errorf("host %q, exporter %q, claims %v", c.host, c.exporter, c.said)
	}
}

func TestReplayOfWhatIsNone(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	c := testConfig(t, "127.0.0.1:1")
	if err := Replay(t.Context(), c, filepath.Join(t.TempDir(), "none"), logger); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte(strings.Repeat("x", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Replay(t.Context(), c, other, logger); !errors.Is(err, recording.ErrFormat) {
		t.Errorf("another file: %v", err)
	}
}

// What the kernel shows is recorded, and a replay gives the same rows; a second recording does not overwrite the first.
func TestRecordAndReplay(t *testing.T) {
	testenv.NeedRoot(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint32(listener.Addr().(*net.TCPAddr).Port)
	listener.Close()
	file := filepath.Join(t.TempDir(), "recording")
	config := testConfig(t, "127.0.0.1:1")
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	const limit = 256 << 10
	done := make(chan error, 1)
	go func() { done <- Record(t.Context(), config, file, limit, logger) }()
	attempts := 0
	for err == nil {
		select {
		case err = <-done:
		default:
			if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
				conn.Close()
			}
			attempts++
			time.Sleep(100 * time.Microsecond)
		}
	}
	if !errors.Is(err, errRecordingFull) {
		t.Fatalf("recording: %v", err)
	}
	if err := Record(t.Context(), config, file, limit, logger); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second recording to the same file: %v", err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in, err := recording.NewReader(f, event.RecordSize)
	if err != nil {
		t.Fatal(err)
	}
	records := 0
	for {
		frame, err := in.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		if frame.Kind == recording.Record {
			records++
		}
	}
	c := startCollector(t)
	config.Collector = c.address
	if err := Replay(t.Context(), config, file, logger); err != nil {
		t.Fatal(err)
	}
	all, _, _ := c.count(func(r row) bool { return r.replay })
	ours, _, _ := c.count(func(r row) bool { // in the first pid namespace we are the exporter
		return r.remotePort == port && r.kind == "failed" && r.errno == 111 && (r.workload == ownWorkload || r.workload == "test/app")
	})
	if all != records || ours == 0 || ours > attempts {
		t.Errorf("%d records, %d rows; of %d refused attempts %d", records, all, attempts, ours)
	}
}
