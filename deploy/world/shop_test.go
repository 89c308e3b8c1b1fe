package world

import (
	"context"
	"strings"
	"testing"
	"time"

	"tributary/service/testenv"
)

// The shop makes every edge it promises, fails where it promises to, and moves the cart.
func TestShop(t *testing.T) {
	testenv.NeedRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := NewShop(t.Output())
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	began := time.Now()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Log("shop stands after", time.Since(began))
	if err := s.Traffic(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := s.MoveCart(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(6 * time.Second)
	for _, p := range s.processes {
		if err := p.Quiet(ctx); err != nil {
			t.Fatal(err)
		}
	}
	truth, err := s.Settle(ctx)
	if err != nil {
		t.Fatal(err)
	}
	edges := truth.Edges()
	for _, want := range s.Expected() {
		got := edges[want.Edge]
		if got.Connections == 0 || want.Failing != (got.Failures == got.Connections) || !want.Failing && got.Rx == 0 {
			t.Errorf("%+v: %+v", want, got)
		}
	}
	if len(edges) != len(s.Expected()) {
		t.Errorf("edges: %+v", edges)
	}
}

func TestIdentity(t *testing.T) {
	testenv.NeedRoot(t)
	s := NewShop(nil)
	defer s.Close()
	if err := s.World.Start(); err != nil {
		t.Fatal(err)
	}
	got, err := s.Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"- cidr: 10.77.", "network: lab-", "workload: shop/gateway", "- " + s.IPv4("gateway").String(), "- " + s.IPv6("gateway").String(),
		"netns: " + s.NamespacePath("web"), "instance: web-7f9c", "release: 2026-11-20.3", "zone: lab-1a",
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(string(got), "workload: outside") {
		t.Error("the outside has a workload")
	}
}
