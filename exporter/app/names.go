package app

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"tributary/exporter/batch"
	"tributary/exporter/config"
	"tributary/exporter/containers"
	"tributary/exporter/event"
	"tributary/exporter/identity"
	"tributary/exporter/listeners"
	"tributary/exporter/nat"
	"tributary/exporter/netns"
	"tributary/exporter/probe"
	"tributary/exporter/transport"
)

// names joins the rooms that know more of a connection than its socket to those that use them: it names events and is the
// transport's source of claims.
type names struct {
	own        ownProcess
	book       *identity.Book
	containers *containers.Watcher // nil in a sidecar
	nat        *nat.Table          // nil: addresses are what sockets say
	sharing    *nat.Sharing        // nil where nat is
}

// newNames makes the rooms; run has to run.
func newNames(c config.Config, h host, registerer prometheus.Registerer, logger *slog.Logger) (*names, error) {
	n := &names{own: newOwnProcess(h)}
	options := identityOptions(c, h)
	var err error
	if c.Scope != config.ScopeNetns { // a sidecar's host is not its business
		of := containers.Options{Host: h.name, Pods: c.Pods, Node: nodeName(c, h)}
		if of.Kubernetes, err = connectKubernetes(c, logger); err != nil {
			return nil, err
		}
		if n.containers, err = containers.New(of, registerer, logger); err != nil {
			return nil, err
		}
		options.Containers = n.containers
	}
	if c.Conntrack {
		inum, err := ownNetns()
		if err != nil {
			return nil, err
		}
		asking := nat.Options{Own: inum, OwnOnly: c.Scope == config.ScopeNetns, Path: netns.Path}
		if n.nat, err = nat.New(asking, registerer, logger); err != nil {
			return nil, err
		}
		if n.sharing, err = nat.NewSharing(asking, registerer, logger); err != nil {
			return nil, err
		}
		options.Shared = n.sharing.Among
	}
	n.book, err = identity.New(options, registerer, logger)
	return n, err
}

// run keeps what the names rest on up to date until ctx ends.
func (n *names) run(ctx context.Context) error {
	var watching errgroup.Group
	watching.Go(func() error { return n.book.Run(ctx) })
	if n.containers != nil {
		watching.Go(func() error { return n.containers.Run(ctx) })
	}
	if n.nat != nil {
		watching.Go(func() error { return n.nat.Run(ctx) })
		watching.Go(func() error { return n.sharing.Run(ctx) })
	}
	return watching.Wait()
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

// translations are the counters of nat; of a replay there are none.
func (n *names) translations() nat.Stats {
	if n == nil || n.nat == nil {
		return nat.Stats{}
	}
	return n.sharing.Add(n.nat.Stats())
}

// missing says what this host does not allow of what the configuration asks for; nil if nothing.
func (n *names) missing() error {
	if n.nat == nil {
		return nil
	}
	return n.nat.Degraded()
}

// local names the local end of an event and says where the connection really goes. If that is elsewhere, so is the address space in
// which the remote end has its name. What the local end is called beyond this host is said only where the remote end is beyond it: here, both ends'
// records have both ends' own addresses.
func (n *names) local(e *event.Event, comm string, start int64) batch.Local {
	local := n.owner(e, comm, start)
	if n.nat == nil || e.LastState == event.StateClose {
		return local
	}
	way := n.nat.Find(&nat.End{
		Sock: e.Sock, Opened: e.Opened, Last: e.Kind != event.KindActive, AtNs: e.End, Netns: e.NetnsInum, Pid: e.PID, Server: e.Role == event.RoleServer,
		Local: addrPort(e.LocalAddr, e.LocalPort), Remote: addrPort(e.RemoteAddr, e.RemotePort),
	})
	far := e.RemoteAddr
	if local.Peer = way.Peer; way.Peer.IsValid() {
		far = way.Peer.Addr().As16()
		local.Network = n.book.Network(e.NetnsInum, far)
	}
	switch {
	case !way.Local.IsValid():
	case n.book.Here(far):
		local.Network = n.book.Network(e.NetnsInum, far)
	default:
		local.Nat = way.Local
		local.Network = n.book.Network(e.NetnsInum, way.Local.Addr().As16())
	}
	return local
}

func addrPort(addr [16]byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), port)
}

func (n *names) owner(e *event.Event, comm string, start int64) batch.Local {
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
