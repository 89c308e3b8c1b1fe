package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tributary/collector/schema"
)

// TestLivesOfTheEmbeddedStore: only a host that went down with the store, or another directory, begins another life.
func TestLivesOfTheEmbeddedStore(t *testing.T) {
	dir := t.TempDir()
	begin := func() life {
		l, err := beginLife(dir)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := begin()
	if again := begin(); again.name != first.name || first.name == "" {
		t.Errorf("killed and started again: %q, then %q", first.name, again.name)
	}
	reboot := func() {
		text, err := os.ReadFile(first.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(first.path, []byte(strings.Replace(string(text), first.boot, "another", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first.end()
	reboot()
	if again := begin(); again.name != first.name {
		t.Errorf("stopped in order before a reboot: %q, then %q", first.name, again.name)
	}
	reboot()
	second := begin()
	if second.name == first.name {
		t.Error("the host went down with the store, and it is the same life")
	}
	dir = t.TempDir()
	if third := begin(); third.name == second.name {
		t.Error("another directory, and it is the same life")
	}
}

// TestLivesOfAServer: a later start is another life; another server behind the same address is not.
func TestLivesOfAServer(t *testing.T) {
	var answer atomic.Value
	var fails, closed atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if query, _ := io.ReadAll(r.Body); closed.Load() && strings.Contains(string(query), "system.") {
			w.Header().Set("X-ClickHouse-Exception-Code", "497")
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if fails.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, answer.Load())
	}))
	defer server.Close()
	says := func(host string, started int) {
		answer.Store(fmt.Sprintf(`{"host":%q,"started":%d}`+"\n", host, started))
	}
	ctx, cancel := context.WithCancel(t.Context())
	lives, ended := make(chan string, 10), make(chan struct{})
	says("a", 1_000_000)
	go func() {
		defer close(ended)
		watchLife(ctx, schema.NewClient(schema.Server{URL: server.URL}, 1), 5*time.Millisecond, func(name string) { lives <- name })
	}()
	first := <-lives
	for _, step := range []func(){
		func() { says("a", 1_000_001) }, func() { says("b", 2_000_000) }, func() { fails.Store(true) }, func() { fails.Store(false); says("a", 999_999) },
	} {
		step()
		time.Sleep(30 * time.Millisecond)
	}
	if len(lives) > 0 {
		t.Errorf("lives began without a restart: %q after %q", <-lives, first)
	}
	closed.Store(true)
	says("a", 1_000_020)
	if second := <-lives; second == first || !strings.HasPrefix(second, "a@") {
		t.Errorf("%q after %q", second, first)
	}
	closed.Store(false)
	named := func(life string, started int) {
		answer.Store(fmt.Sprintf(`{"host":"a","started":%d,"life":%q}`+"\n", started, life))
	}
	named("one", 3_000_000)
	if third := <-lives; third != "one" {
		t.Errorf("%q is called %q", "one", third)
	}
	named("one", 4_000_000) // its process was started again
	time.Sleep(30 * time.Millisecond)
	named("two", 4_000_000)
	if fourth := <-lives; fourth != "two" {
		t.Errorf("%q after one", fourth)
	}
	cancel()
	<-ended
}
