package identity

import (
	"strings"

	"tributary/exporter/containers"
	"tributary/proto/flow"
)

// Container is a container of this host.
type Container = containers.Container

// Containers knows the containers of this host.
type Containers interface {
	// Running returns those that run.
	Running() []Container
	// Find returns what a container is called by its id, its pod's UID or both; ok is false if that is not known.
	Find(id, pod string) (c Container, ok bool)
	// Changed receives after an answer has changed.
	Changed() <-chan struct{}
}

// bindContainers adds the keys of cgroups and of containers' network namespaces.
func (b *Book) bindContainers(want map[key]*Owner) {
	byEntry := map[*entry]*entryOwners{}
	for i := range b.owners {
		byEntry[b.owners[i].entry] = &b.owners[i]
	}
	for _, at := range b.presence.places {
		if o := byEntry[at.entry]; o != nil && !at.entry.isContainer(at.container) {
			want[key{kind: byCgroup, id: at.cgroup}] = o.cgroup
		} else if o := b.containerOwner(at.container, at.pod, flow.EvidenceCgroup); o != nil {
			want[key{kind: byCgroup, id: at.cgroup}] = o
		}
	}
	for netns, o := range b.containerNetns() {
		want[key{kind: byNetns, id: uint64(netns)}] = o
	}
}

// containerOwner is the name of a container, by an entry of the file or else by what is known of it; nil none.
func (b *Book) containerOwner(id, pod string, evidence uint32) *Owner {
	if e := b.presence.selectors.entryOf(id); e != nil {
		for i := range b.owners {
			if b.owners[i].entry == e {
				return b.owners[i].container(id, evidence)
			}
		}
	}
	if b.opts.Containers == nil {
		return nil
	}
	c, ok := b.opts.Containers.Find(id, pod)
	if !ok || CheckWorkload(c.Workload) != nil {
		return nil
	}
	return &Owner{
		Workload: c.Workload, Instance: c.Instance, Release: c.Release, Evidence: evidence,
		Zone: first(b.file.Zone, b.opts.Zone), Region: first(b.file.Region, b.opts.Region),
	}
}

// container is the entry's owner of one container: what the file does not say of the instance the id does.
func (o *entryOwners) container(id string, evidence uint32) *Owner {
	owner := *o.cgroup
	owner.Evidence = evidence
	if owner.Derived {
		owner.Instance, owner.Derived = id, false
	}
	return &owner
}

// isContainer reports whether the entry names the container.
func (e *entry) isContainer(id string) bool {
	return id != "" && e.Container != "" && strings.HasPrefix(id, e.Container)
}

// containerNetns are the owners of the network namespaces that containers run in: where the cgroup says nothing (a runtime
// that does not use cgroup v2) the namespace does, and its addresses are the container's to claim. The host's own is nobody's, and one that different
// workloads share is none's.
func (b *Book) containerNetns() map[uint32]*Owner {
	owners := map[uint32]*Owner{}
	for i := range b.presence.containers {
		c := &b.presence.containers[i]
		if c.Netns == 0 || c.Netns == b.presence.own {
			continue
		}
		o := b.containerOwner(c.ID, c.Pod, flow.EvidenceNetns)
		if other, shared := owners[c.Netns]; shared && (o == nil || other == nil || *o != *other) {
			o = nil
		}
		owners[c.Netns] = o
	}
	for netns, o := range owners {
		if o == nil {
			delete(owners, netns)
		}
	}
	return owners
}

// containersChanged brings table and claims up to date with the containers.
func (b *Book) containersChanged() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.look(false)
	before := b.containerNetns()
	b.findContainers()
	b.rebind(b.clock().wall)
	if after := b.containerNetns(); len(before)+len(after) > 0 {
		b.look(true) // namespaces that were not watched
		b.refresh(b.verified)
	}
}
