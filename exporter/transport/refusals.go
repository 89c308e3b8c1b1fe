package transport

import (
	"log/slog"
	"net/netip"

	lru "github.com/hashicorp/golang-lru/v2"

	"tributary/proto/flowv1"
)

// refusals says once for each address that a claim was not taken. It remembers the latest maxRefusals.
type refusals struct {
	told *lru.Cache[refused, struct{}]
	log  *slog.Logger
}

const maxRefusals = 1024

type refused struct {
	network string
	addr    netip.Addr
}

func newRefusals(logger *slog.Logger) (*refusals, error) {
	told, err := lru.New[refused, struct{}](maxRefusals)
	if err != nil {
		return nil, err
	}
	return &refusals{told, logger}, nil
}

func (r *refusals) tell(m *flowv1.Refusal) {
	addr, _ := netip.AddrFromSlice(m.GetAddr()) // a wrong length shows as "invalid IP"
	if len(m.GetAddr()) == 0 {
		r.log.Warn("the collector refuses every claim of this exporter: flows to this host stay without a name", "reason", short(m.GetReason()))
		return
	}
	key := refused{short(m.GetNetwork()), addr.Unmap()}
	if known, _ := r.told.ContainsOrAdd(key, struct{}{}); known {
		return
	}
	r.log.Warn("the collector refused a claim: flows to this address stay without a name", "network", key.network, "addr", key.addr, "reason", short(m.GetReason()))
}
