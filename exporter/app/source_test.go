package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"tributary/exporter/config"
	"tributary/exporter/probe"
	"tributary/service/testenv"
)

// broken is a way to capture that this kernel does not allow.
type broken struct {
	capturer
	err error
}

func (b broken) Start() error { return b.err }

func TestTheSecondWay(t *testing.T) {
	for _, c := range []struct {
		mode  string
		err   error
		scope probe.Options
		want  string // the mode in use
		fails string // or in the error
	}{
		{config.CaptureAuto, fmt.Errorf("%w: no such file", probe.ErrNoBTF), probe.Options{}, config.CaptureSockDiag, ""},
		{config.CaptureAuto, probe.ErrOldKernel, probe.Options{}, config.CaptureSockDiag, ""},
		{config.CaptureAuto, probe.ErrNotAllowed, probe.Options{}, config.CaptureSockDiag, ""},
		{config.CaptureTracing, probe.ErrNoBTF, probe.Options{}, "", "BTF"},
		{config.CaptureAuto, probe.ErrPrivilege, probe.Options{}, "", "--capture-mode sock_diag"},
		{config.CaptureAuto, errors.New("no memory"), probe.Options{}, "", "no memory"},
		{config.CaptureAuto, probe.ErrNoBTF, probe.Options{CgroupID: 7}, "", "--scope cgroup"},
	} {
		s, err := newSource(config.Config{CaptureMode: c.mode, OpenSockets: 10}, c.scope, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s.choose(broken{err: c.err})
		switch err := s.start(); {
		case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
			t.Errorf("%s, %v: %v, want %q", c.mode, c.err, err, c.fails)
		case c.fails == "" && (err != nil || s.mode() != c.want):
			t.Errorf("%s, %v: %v, %s", c.mode, c.err, err, s.mode())
		case c.fails == "":
			if err := s.get().Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := newSource(config.Config{CaptureMode: config.CaptureSockDiag}, probe.Options{CgroupID: 7}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("sock_diag keeps to a cgroup")
	}
}

// The whole exporter without a kernel program: rows with all bytes, and books that balance.
func TestCaptureBySockDiag(t *testing.T) {
	testenv.NeedRoot(t)
	c := startCollector(t)
	settings := testConfig(t, c.address)
	settings.CaptureMode, settings.Scope = config.CaptureSockDiag, config.ScopeNetns
	a, stop := runApp(t, settings)
	const n = 40
	port := exchange(t, "127.0.0.1:0", n)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := map[uint64]int{}
	for _, r := range c.rows {
		if r.remotePort == port && r.kind == "closed" {
			sent[r.tx]++
			if r.role != "client" {
				t.Errorf("%+v", r)
			}
		}
	}
	for i := range uint64(n) {
		if sent[4+i] != 1 {
			t.Errorf("%d clients sent %d bytes, want 1", sent[4+i], 4+i)
		}
	}
	if s := a.spool.Stats(); s.Appended != s.Acked || int(s.Acked.Rows) != len(c.rows) {
		t.Errorf("books %+v, %d rows", s, len(c.rows))
	}
}

func TestDoctorOfSockDiag(t *testing.T) {
	testenv.NeedRoot(t)
	c := testConfig(t, closedPort(t).String())
	c.CaptureMode, c.Scope = config.CaptureSockDiag, config.ScopeNetns
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out strings.Builder
	if err := Doctor(ctx, c, &out); err != nil {
		t.Errorf("doctor: %v", err)
	}
	for _, want := range []string{"ok    capture by sock_diag works", "warn  capture by sock_diag: attempts that fail"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out.String())
		}
	}
}
