package probe

import (
	"errors"
	"fmt"
	"io"

	"tributary/exporter/netns"
)

// openInventory needs mu. The inventory is made once, whatever becomes of it: a second one
// would find the same connections entered already.
func (p *Probe) openInventory() (io.ReadCloser, error) {
	found, err := netns.All(p.opts.NetnsInum)
	if err != nil {
		return nil, err
	}
	p.spaces = namespaces{found: len(found)}
	return &inventory{probe: p, left: found}, nil
}

// namespaces is what became of the inventory.
type namespaces struct {
	found, unread int
}

// Inventory says how many network namespaces the inventory met, and in how many of them the
// connections that are older than Start could not be looked up, because entering a namespace
// takes CAP_SYS_ADMIN or because it went away. Their ends will have records without a start.
func (p *Probe) Inventory() (found, unread int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spaces.found, p.spaces.unread
}

// inventory reads the sockets of one namespace after the other.
type inventory struct {
	probe  *Probe
	left   []netns.Namespace
	inside io.ReadCloser // the namespace being read
	errs   []error
}

// Read gives whole records; a namespace that cannot be entered is left out, and the error
// comes at the end, when all others have been read.
func (i *inventory) Read(b []byte) (int, error) {
	for {
		if i.inside == nil {
			if len(i.left) == 0 {
				return 0, i.end()
			}
			i.enter(i.left[0])
			i.left = i.left[1:]
			continue
		}
		n, err := i.inside.Read(b)
		if errors.Is(err, io.EOF) {
			err = i.leave()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (i *inventory) end() error {
	if len(i.errs) == 0 {
		return io.EOF
	}
	err := fmt.Errorf("inventory of %d of %d network namespaces: %w", len(i.errs), i.probe.spaces.found, i.errs[0])
	i.errs = nil
	return err
}

func (i *inventory) leave() error {
	inside := i.inside
	i.inside = nil
	return inside.Close()
}

// enter opens the iterator on a thread inside the namespace; that is what decides whose
// sockets it shows. It can be read from anywhere.
func (i *inventory) enter(space netns.Namespace) {
	p := i.probe
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if p.inventory == nil {
		err = ErrClosed
	} else {
		err = netns.Do(space, func() (err error) {
			i.inside, err = p.inventory.Open()
			return err
		})
	}
	if err != nil {
		i.inside = nil
		p.spaces.unread++
		i.errs = append(i.errs, err)
	}
}

// Close ends the inventory for good.
func (i *inventory) Close() error {
	var err error
	if i.inside != nil {
		err = i.leave()
	}
	p := i.probe
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inventory == nil {
		return err
	}
	err = errors.Join(err, p.inventory.Close())
	p.inventory = nil
	return err
}
