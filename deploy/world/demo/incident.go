package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"tributary/deploy/world"
)

// The demo's judge is quicker than the defaults of the collector.
var quickJudge = []string{
	"--reachability-every", "2s", "--reachability-open-after", "8s", "--reachability-close-after", "8s", "--alert-group-wait", "1s",
}

// lookAround is how long a broken path may be looked at before it heals.
const lookAround = 8 * time.Second

// incident is a path of the shop that is broken and heals, and what the collector says about it: it sends its alerts here.
type incident struct {
	listener net.Listener
	alerts   chan alert

	mu    sync.Mutex
	lines []string // what has happened
}

// alert is the part of the collector's webhook that is shown.
type alert struct {
	Status      string            `json:"status"`
	Annotations map[string]string `json:"annotations"`
}

// newIncident listens for alerts until ctx ends.
func newIncident(ctx context.Context) (*incident, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for alerts: %w", err)
	}
	i := &incident{listener: l, alerts: make(chan alert, 10)}
	s := &http.Server{Handler: http.HandlerFunc(i.take), ReadHeaderTimeout: time.Second}
	go s.Serve(l) //nolint:errcheck // it ends with the demo
	context.AfterFunc(ctx, func() { _ = s.Close() })
	return i, nil
}

func (i *incident) url() string { return "http://" + i.listener.Addr().String() + "/alerts" }

func (i *incident) take(w http.ResponseWriter, r *http.Request) {
	var a alert
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&a); err != nil {
		http.Error(w, "no alert", http.StatusBadRequest)
		return
	}
	select {
	case i.alerts <- a:
	default: // nobody looks any more
	}
}

// text is what has happened so far.
func (i *incident) text() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return strings.Join(i.lines, "")
}

func (d *demo) happened(format string, args ...any) {
	line := fmt.Sprintf("  "+time.Now().Format(time.TimeOnly)+"  "+format+"\n", args...)
	d.incident.mu.Lock()
	first := len(d.incident.lines) == 0
	d.incident.lines = append(d.incident.lines, line)
	d.incident.mu.Unlock()
	if first {
		line = "\nA path breaks\n\n" + line
	}
	fmt.Fprint(d.out, line)
}

// breakAPath lets a firewall answer in place of the cache, waits for the alert, takes the firewall away and waits for the end of it.
func (d *demo) breakAPath(ctx context.Context) {
	if err := d.shop.Firewall("cache", fmt.Sprintf("tcp dport %d reject with tcp reset", world.PortCache), ""); err != nil {
		d.happened("the path could not be broken: %v", err)
		return
	}
	d.happened("a firewall on shop/cache answers with resets, in the place of the program that listens on %d", world.PortCache)
	a, ok := d.waitAlert(ctx, "firing")
	if !ok {
		return
	}
	d.happened("ALERT   %s (%s)", a.Annotations["summary"], a.Annotations["verdict"])
	d.happened("        %s", a.Annotations["description"])
	select {
	case <-ctx.Done():
		return
	case <-time.After(lookAround):
	}
	if err := d.shop.Firewall("cache", "", ""); err != nil {
		d.happened("the path could not be healed: %v", err)
		return
	}
	d.happened("the firewall is gone")
	if a, ok = d.waitAlert(ctx, "resolved"); ok {
		d.happened("RESOLVED %s", a.Annotations["servers"])
	}
}

func (d *demo) waitAlert(ctx context.Context, status string) (alert, bool) {
	for {
		select {
		case <-ctx.Done():
			return alert{}, false
		case a := <-d.incident.alerts:
			if a.Status == status {
				return a, true
			}
		}
	}
}
