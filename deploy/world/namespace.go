package world

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// namespace is one named network namespace and a netlink socket inside it.
type namespace struct {
	name   string
	handle netns.NsHandle
	link   *netlink.Handle
}

// sysctls are the same in every namespace: a connect nobody answers gives up after about three seconds (1 s + 2 s), and
// addresses are usable at once.
var sysctls = map[string]string{
	"net/ipv4/tcp_syn_retries":           "1",
	"net/ipv4/tcp_retries2":              "5",
	"net/ipv6/conf/default/accept_dad":   "0",
	"net/ipv6/conf/all/accept_dad":       "0",
	"net/ipv6/conf/default/accept_ra":    "0",
	"net/ipv6/conf/default/disable_ipv6": "0",
	"net/ipv6/conf/all/disable_ipv6":     "0",
}

// newNamespace makes a namespace as `ip netns add` does, with its loopback up.
func newNamespace(name string) (*namespace, error) {
	n := &namespace{name: name, handle: netns.None()}
	err := onOwnThread(func() error {
		h, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		n.handle = h
		for key, value := range sysctls {
			err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0)
			if err != nil && !os.IsNotExist(err) { // a kernel without IPv6 has none of its keys
				return err
			}
		}
		return nil
	})
	if err == nil {
		n.link, err = netlink.NewHandleAt(n.handle)
	}
	if err == nil {
		err = n.up("lo")
	}
	if err != nil {
		n.close()
		return nil, fmt.Errorf("network namespace %s: %w", name, err)
	}
	return n, nil
}

func (n *namespace) up(name string) error {
	l, err := n.link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return n.link.LinkSetUp(l)
}

// in runs f inside the namespace. Processes that f starts are inside too.
func (n *namespace) in(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter %s: %w", n.name, err)
		}
		return f()
	})
}

// close lets go of the handles; the namespace itself is removed with its name.
func (n *namespace) close() {
	if n.link != nil {
		n.link.Close()
		n.link = nil
	}
	if n.handle.IsOpen() {
		n.handle.Close()
	}
}

// onOwnThread runs f on a locked thread and puts the thread's network namespace back. Where that fails the thread is
// not unlocked, so that the runtime throws it away. (A process that f starts with a parent-death signal lives as long as
// its thread: the runtime keeps unlocked threads for ever.)
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("current network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// interfaceName fits the kernel's 15 characters.
func interfaceName(host string) string {
	name := "v-" + strings.ReplaceAll(host, "/", "-")
	if len(name) > 15 {
		name = name[:15]
	}
	return name
}
