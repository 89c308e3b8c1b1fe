package app

import (
	"os"

	"tributary/exporter/batch"
	"tributary/exporter/event"
	"tributary/proto/flow"
)

// ownWorkload names the exporter's own connections in its records.
const ownWorkload = "tributary/exporter"

// initPIDNamespace is PROC_PID_INIT_INO of include/linux/proc_ns.h: the inode number of the first pid namespace.
const initPIDNamespace = "pid:[4026531836]"

// ownProcess recognises the exporter's own connections.
type ownProcess struct {
	pid  uint32 // in the initial pid namespace; 0 if unknown
	name batch.Local
}

// newOwnProcess knows its pid only in the initial pid namespace: elsewhere os.Getpid is another process's number there.
func newOwnProcess(h host) ownProcess {
	own := ownProcess{name: batch.Local{Workload: ownWorkload, Instance: h.name, Evidence: flow.EvidenceSocket}}
	if ns, err := os.Readlink("/proc/self/ns/pid"); err == nil && ns == initPIDNamespace {
		own.pid = uint32(os.Getpid())
	}
	return own
}

// local names the event if it is ours; network is that of its local address.
func (o *ownProcess) local(e *event.Event, network string) (batch.Local, bool) {
	if o.pid == 0 || e.PID != o.pid {
		return batch.Local{}, false
	}
	local := o.name
	local.Network = network
	return local, true
}
