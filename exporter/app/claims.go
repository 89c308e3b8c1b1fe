package app

import (
	"tributary/exporter/identity"
	"tributary/proto/flowv1"
)

// The messages of what the identity room says.

func claimMessage(c *identity.Claim) *flowv1.Claim {
	return &flowv1.Claim{
		Network: c.Network, Addr: c.Addr[:], PortFrom: uint32(c.PortFrom), PortTo: uint32(c.PortTo),
		Workload: c.Workload, Instance: c.Instance, InstanceDerived: c.Derived, Zone: c.Zone, Region: c.Region, Release: c.Release,
		Evidence: flowv1.Evidence(c.Evidence), FromNs: c.FromNs,
	}
}

func claimMessages(claims []identity.Claim) []*flowv1.Claim {
	messages := make([]*flowv1.Claim, len(claims))
	for i := range claims {
		messages[i] = claimMessage(&claims[i])
	}
	return messages
}

func releaseMessage(r *identity.Release) *flowv1.Release {
	reasons := map[identity.Reason]flowv1.ReleaseReason{
		identity.Moved:   flowv1.ReleaseReason_RELEASE_REASON_MOVED,
		identity.Gone:    flowv1.ReleaseReason_RELEASE_REASON_GONE,
		identity.Stopped: flowv1.ReleaseReason_RELEASE_REASON_STOPPED,
		identity.Shared:  flowv1.ReleaseReason_RELEASE_REASON_SHARED,
	}
	return &flowv1.Release{
		Network: r.Network, Addr: r.Addr[:], PortFrom: uint32(r.PortFrom), PortTo: uint32(r.PortTo),
		Workload: r.Workload, Instance: r.Instance, AtNs: r.AtNs, Reason: reasons[r.Reason],
	}
}

// ownershipMessage tells one change; the transport sends its releases first.
func ownershipMessage(change identity.Change) *flowv1.Ownership {
	o := &flowv1.Ownership{Claims: claimMessages(change.Claims)}
	for i := range change.Releases {
		o.Releases = append(o.Releases, releaseMessage(&change.Releases[i]))
	}
	return o
}
