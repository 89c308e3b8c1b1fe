package nat

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/netlink"

	"tributary/exporter/netns"
)

// space is what Sharing knows of one network namespace. The files that it keeps open do not keep the namespace.
type space struct {
	at     netns.Namespace
	count  *os.File // how many connections are tracked; nil: it could not be opened
	events *os.File // whether the kernel tells of connections; nil: not opened yet

	asked      time.Time
	own, whole []netip.Addr // as it was asked about last
	translates bool         // its rules can
	chains     bool         // those of nftables can
	rules      uint64       // of which generation of all rules of nftables that is known; 0: it is not
	heard      []netip.Addr // found since
	complete   bool         // what was translated under the addresses in whole is known up to the last hearing
	rest       time.Time    // until then nothing is listed for what is not heard of
	again      time.Time    // rules and connections are looked at anew
	failed     time.Time    // until then it is left alone
	silent     bool         // it was mute when it was looked at
}

// eventsPath is that of the reader's network namespace.
const eventsPath = "/proc/sys/net/netfilter/nf_conntrack_events"

// tracking says whether this kernel tracks connections at all: the module has been loaded.
func tracking() bool {
	_, err := os.Stat(countPath)
	return err == nil
}

// open finds the namespace at a path, whatever was known of it before.
func (sp *space) open(at netns.Namespace) error {
	sp.close()
	sp.at, sp.failed = at, time.Time{}
	err := netns.Do(at, func() (err error) {
		if sp.count, err = os.Open(countPath); err == nil {
			sp.events, _ = os.Open(eventsPath) // a kernel without it tells nothing
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("look at connection tracking: %w", err)
	}
	return nil
}

func (sp *space) close() {
	for _, f := range []*os.File{sp.count, sp.events} {
		if f != nil {
			_ = f.Close() // nothing was written
		}
	}
	sp.count, sp.events = nil, nil
}

// in calls f with what leads netlink sockets into the namespace.
func (sp *space) in(own uint32, f func(config *netlink.Config) error) error {
	if sp.at.Inum == own {
		return f(nil)
	}
	file, err := netns.Open(sp.at.Path, sp.at.Inum)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // nothing was written
	return f(&netlink.Config{NetNS: int(file.Fd())})
}

// list finds the addresses that stand for others by all that is translated now.
func (sp *space) list(config *netlink.Config, now time.Time) (shared []netip.Addr, err error) {
	found, took := stands{own: sp.own}, uint64(0)
	if !sp.nothingTracked() {
		timed(&took, func() { err = found.list(config) })
	}
	sp.rest, sp.again = now.Add(listPause*time.Duration(took)), now.Add(listAgain)
	return found.found, err
}

// hear notes a translated connection, in whichever namespace it is: where two have the same address, both are taken to be meant.
func (sp *space) hear(orig, reply addresses) {
	if !sp.translates || len(sp.whole) == 0 {
		return
	}
	found := stands{own: sp.own, found: sp.heard}
	found.note(orig, reply)
	sp.heard = found.found
}

// nothingTracked says that there was no entry at this moment.
func (sp *space) nothingTracked() bool { return says(sp.count, "0") }

// mute says that the kernel does not tell of connections here.
func (sp *space) mute() bool { return sp.events == nil || says(sp.events, "0") }

func says(file *os.File, value string) bool {
	var digits [16]byte
	n, _ := file.ReadAt(digits[:], 0) // io.EOF comes with what was read
	return string(bytes.TrimSpace(digits[:n])) == value
}
