package metrics

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func get(t *testing.T, method, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestPages(t *testing.T) {
	var broken atomic.Bool
	server := NewServer(ServerConfig{Listen: "127.0.0.1:0", Registry: NewRegistry("tributary_collector"), Log: quiet(), Ready: func() []string {
		if broken.Load() {
			return []string{"clickhouse: connection refused", "kafka: no broker"}
		}
		return nil
	}})
	if err := server.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	base := "http://" + server.Addr()
	expect := func(method, path string, wantStatus int, wantText string) {
		t.Helper()
		if status, text := get(t, method, base+path); status != wantStatus || !strings.Contains(text, wantText) {
			t.Errorf("%s %s: %d %q, want %d %q", method, path, status, text, wantStatus, wantText)
		}
	}
	expect("GET", "/healthz", 200, "ok\n")
	expect("GET", "/readyz", 200, "ready\n")
	broken.Store(true)
	expect("GET", "/readyz", 503, "clickhouse: connection refused\nkafka: no broker\n")
	expect("GET", "/healthz", 200, "ok\n")
	expect("GET", "/metrics", 200, `tributary_collector_build_info{goversion="go1.`)
	expect("GET", "/metrics", 200, "process_resident_memory_bytes")
	expect("GET", "/metrics", 200, "go_goroutines")
	expect("POST", "/metrics", 405, "")
	expect("GET", "/debug/pprof/", 404, "")
}

func TestStartAndStopInAnyOrder(t *testing.T) {
	ctx := context.Background()
	early := NewServer(ServerConfig{Listen: "127.0.0.1:0", Registry: NewRegistry("x"), Log: quiet()})
	if err := early.Stop(ctx); err != nil {
		t.Errorf("stop before start: %v", err)
	}
	if err := early.Start(ctx); err == nil {
		t.Error("a stopped server started")
	}
	server := NewServer(ServerConfig{Listen: "127.0.0.1:0", Registry: NewRegistry("x"), Log: quiet()})
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	second := NewServer(ServerConfig{Listen: server.Addr(), Registry: NewRegistry("x"), Log: quiet()})
	if err := second.Start(ctx); err == nil || !strings.HasPrefix(err.Error(), "--metrics-listen "+server.Addr()+" is in use") {
		t.Errorf("port in use: %v", err)
	}
	for range 2 {
		if err := server.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	if err := second.Stop(ctx); err != nil {
		t.Errorf("stop after a failed start: %v", err)
	}
}
