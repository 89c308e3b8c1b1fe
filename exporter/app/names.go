package app

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/batch"
	"tributary/exporter/config"
	"tributary/exporter/event"
	"tributary/exporter/transport"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// names is the static identity of the configuration: every local end is the one workload's, and nothing is claimed.
type names struct {
	own    ownProcess
	static batch.Local
}

func newNames(c config.Config, h host, _ prometheus.Registerer, _ *slog.Logger) (*names, error) {
	n := &names{own: newOwnProcess(h), static: batch.Local{Network: c.Network, Workload: c.Workload, Instance: c.Instance, Zone: c.Zone, Region: c.Region, Release: c.Release}}
	if c.Workload != "" {
		n.static.Evidence = flow.EvidenceStatic
	}
	return n, nil
}

// local names the local end of an event.
func (n *names) local(e *event.Event, _ string, _ int64) batch.Local {
	if local, ours := n.own.local(e, n.static.Network); ours {
		return local
	}
	return n.static
}

func (n *names) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Subscribe implements transport.Claims.
func (n *names) Subscribe(context.Context) transport.Subscription {
	return transport.NewSubscription[*flowv1.Ownership](nil, nil, func(o *flowv1.Ownership) *flowv1.Ownership { return o })
}

// VerifiedTo implements transport.Claims.
func (n *names) VerifiedTo(now int64) int64 { return now }
