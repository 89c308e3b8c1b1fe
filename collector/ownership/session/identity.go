package session

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
)

// Identity stands for the names by which somebody's certificate says who it is. The same names, in whatever order and by whichever certificate, are the
// same identity. The zero Identity is that of nobody in particular: there was no certificate.
type Identity [16]byte

// Internal is the collector's own identity: no certificate has it.
var Internal = Identity{15: 1}

// IdentityOf returns the identity that these names make.
func IdentityOf(names []string) Identity {
	if len(names) == 0 {
		return Identity{}
	}
	names = slices.Clone(names)
	slices.Sort(names)
	h := sha256.New()
	for _, name := range slices.Compact(names) {
		_ = binary.Write(h, binary.BigEndian, uint32(len(name))) // a hash takes everything
		_, _ = h.Write([]byte(name))
	}
	return Identity(h.Sum(nil))
}

// bytes is for the wire: nothing where there is no identity.
func (i Identity) bytes() []byte {
	if i == (Identity{}) {
		return nil
	}
	return i[:]
}

// identityFrom reads what bytes made; anything else is no identity.
func identityFrom(wire []byte) Identity {
	if len(wire) != len(Identity{}) {
		return Identity{}
	}
	return Identity(wire)
}

// Owner says whose something is. The zero Owner is nobody's: the first who proves an identity has it from then on.
type Owner struct{ identity Identity }

// Take says whether it is who's to use, and makes it who's if it was nobody's.
func (o *Owner) Take(who Identity) bool {
	if o.identity == (Identity{}) {
		o.identity = who
	}
	return o.identity == who
}

// admits says whether Take would.
func (o *Owner) admits(who Identity) bool { return o.identity == (Identity{}) || o.identity == who }

// Peer is who speaks on a stream, and what it may claim; a nil Grant is everything.
type Peer struct {
	Identity Identity
	Grant    *Grant
}

// ErrOtherIdentity says that an exporter_id belongs to another identity, which used it before.
var ErrOtherIdentity = errors.New("the exporter_id belongs to the owner of another certificate")
