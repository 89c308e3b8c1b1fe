package ownership

import (
	"net/netip"
	"testing"
)

const t0 = int64(1_700_000_000) * second

func sec(s float64) int64 { return t0 + int64(s*float64(second)) }

func addr(s string) Addr { return AddrFrom(netip.MustParseAddr(s)) }

var (
	web  = Owner{Workload: "shop/web", Instance: "w1"}
	web2 = Owner{Workload: "shop/web", Instance: "w2"}
	api  = Owner{Workload: "shop/api", Instance: "a1"}
	lb   = Owner{Workload: "edge/lb", Instance: "lb", Assigned: true}
	made = Owner{Workload: "shop/web", Instance: "w1", Derived: true}
)

// world is a table that is told things in order; every step must be accepted.
type world struct {
	*testing.T
	*Table
}

func (w world) claim(exporter string, o Owner, from float64, ports ...uint16) {
	w.Helper()
	c := &Claim{Exporter: exporter, Host: "h-" + exporter[:1], Network: "n", Addr: addr("10.0.0.1"), Owner: o, From: sec(from)}
	if len(ports) == 2 {
		c.PortFrom, c.PortTo = ports[0], ports[1]
	}
	if err := w.Claim(c, sec(from)); err != nil {
		w.Fatal(err)
	}
}

func (w world) release(exporter string, at float64) {
	w.Helper()
	r := &Release{Exporter: exporter, Network: "n", Addr: addr("10.0.0.1"), At: sec(at)}
	if err := w.Release(r, sec(at)); err != nil {
		w.Fatal(err)
	}
}

// releaseSeen is a release that arrives later than it says.
func (w world) releaseSeen(exporter string, at, now float64) {
	w.Helper()
	r := &Release{Exporter: exporter, Network: "n", Addr: addr("10.0.0.1"), At: sec(at)}
	if err := w.Release(r, sec(now)); err != nil {
		w.Fatal(err)
	}
}

// releaseShared says that the address stands for others from some moment on.
func (w world) releaseShared(exporter string, at, now float64) {
	w.Helper()
	if err := w.Release(&Release{Exporter: exporter, Network: "n", Addr: addr("10.0.0.1"), At: sec(at), Shared: true}, sec(now)); err != nil {
		w.Fatal(err)
	}
}

func (w world) mark(exporter string, to, received float64) {
	w.Helper()
	if err := w.Watermark(&Watermark{exporter, "h-" + exporter[:1], sec(to), sec(received), 0}); err != nil {
		w.Fatal(err)
	}
}

func made2() Owner { return Owner{Workload: "shop/web", Instance: "h-a/shop/web", Derived: true} }

func show(a Answer) string {
	switch {
	case a.Owner != nil:
		return a.Owner.Workload + "/" + a.Owner.Instance
	case a.Wait:
		return "wait"
	}
	return a.Why.String()
}
