package app

import (
	"golang.org/x/sys/unix"

	"tributary/exporter/config"
	"tributary/exporter/privilege"
)

// lasting are the capabilities whose work goes on after capture is attached, where the exporter was given them:
//   - DAC_READ_SEARCH and DAC_OVERRIDE, without which root is refused what belongs to others: cgroups by their id, runtimes' state, the spool;
//   - with more than one network namespace in sight, NET_ADMIN and NET_BROADCAST (addresses there, and connection tracking), SYS_PTRACE (a
//     process leads to its namespace) and SYS_ADMIN (entering one).
//
// A sidecar keeps NET_ADMIN alone of these, for the connection tracking of its own namespace.
func lasting(scope string) privilege.Set {
	keep := privilege.Of(unix.CAP_DAC_READ_SEARCH, unix.CAP_DAC_OVERRIDE, unix.CAP_NET_ADMIN)
	if scope != config.ScopeNetns {
		keep |= privilege.Of(unix.CAP_NET_BROADCAST, unix.CAP_SYS_PTRACE, unix.CAP_SYS_ADMIN)
	}
	return keep
}

// reduce gives up what only attaching needed. CAP_BPF stays where the kernel asks for it at each walk.
func (a *App) reduce() {
	if err := privilege.Reduce(lasting(a.config.Scope), privilege.Of(unix.CAP_BPF), a.source.get().Readable); err != nil {
		a.log.Warn("privileges that are not needed any more cannot be given up", "error", err)
		return
	}
	if held, err := privilege.Held(); err == nil {
		a.log.Info("privileges given up but for those whose work goes on", "kept", held.String())
	}
}
