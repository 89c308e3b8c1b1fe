package app

import (
	"context"
	"net/netip"

	"tributary/exporter/batch"
	"tributary/exporter/config"
	"tributary/exporter/event"
	"tributary/exporter/identity"
	"tributary/exporter/listeners"
	"tributary/exporter/probe"
	"tributary/exporter/transport"
)

// names joins the identity room to those that use it: it names events and is the transport's source of claims.
type names struct {
	own  ownProcess
	book *identity.Book
}

// identityOptions are what the configuration says about names. Programs name connections only where nobody said anything about
// workloads: beside an identity file an unknown program is an unnamed end, not a workload.
func identityOptions(c config.Config, h host) identity.Options {
	return identity.Options{
		Host: h.name, File: c.Identity, Network: c.Network,
		Workload: c.Workload, Instance: c.Instance, Zone: c.Zone, Region: c.Region, Release: c.Release,
		OwnNetns:  c.Scope == config.ScopeNetns,
		HostNames: c.Identity == "" && c.Workload == "",
	}
}

// local names the local end of an event.
func (n *names) local(e *event.Event, comm string, start int64) batch.Local {
	network := n.book.Network(e.NetnsInum, e.LocalAddr)
	if local, ours := n.own.local(e, network); ours {
		return local
	}
	owner, why := n.book.Local(identity.Socket{
		NetnsIno: e.NetnsInum, CgroupID: e.CgroupID, Addr: e.LocalAddr, Port: e.LocalPort, StartNs: start, Comm: comm, Pid: e.PID,
		Role: uint8(e.Role),
	})
	return batch.Local{
		Network: network, Workload: owner.Workload, Instance: owner.Instance, Zone: owner.Zone, Region: owner.Region,
		Release: owner.Release, Evidence: owner.Evidence, Why: why,
	}
}

// listener names a listening socket.
func (n *names) listener(l *probe.Listener, comm string, now int64) listeners.Name {
	network := ""
	if !netip.AddrFrom16(l.Addr).Unmap().IsUnspecified() {
		network = n.book.Network(l.NetnsInum, l.Addr)
	}
	if n.own.pid != 0 && l.PID == n.own.pid {
		own := n.own.name
		return listeners.Name{Network: network, Workload: own.Workload, Instance: own.Instance, Evidence: own.Evidence}
	}
	owner, why := n.book.Listener(identity.Socket{
		NetnsIno: l.NetnsInum, CgroupID: l.CgroupID, Addr: l.Addr, Port: l.Port, StartNs: now, Comm: comm, Pid: l.PID, Role: uint8(event.RoleServer),
	})
	return listeners.Name{
		Network: network, Workload: owner.Workload, Instance: owner.Instance, Zone: owner.Zone, Region: owner.Region, Release: owner.Release,
		Evidence: owner.Evidence, Why: why,
	}
}

// Subscribe implements transport.Claims.
func (n *names) Subscribe(ctx context.Context) transport.Subscription {
	full, changes := n.book.Subscribe(ctx)
	return transport.NewSubscription(claimMessages(full), changes, ownershipMessage)
}

// VerifiedTo implements transport.Claims.
func (n *names) VerifiedTo(now int64) int64 { return n.book.VerifiedTo(now) }
