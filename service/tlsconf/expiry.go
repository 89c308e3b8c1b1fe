package tlsconf

import (
	"crypto/tls"
	"fmt"
	"time"
)

// soon is the part of a certificate's life, at its end, that is worth a warning: whatever renews it, after an hour or a year, should have done so.
const soon = 10

// Expiry says until when the certificate of a configuration holds: an error if it does not hold now, or the last tenth of
// its life has begun. A configuration without one gives "" and no error.
func Expiry(config *tls.Config, now time.Time) (fine string, err error) {
	if len(config.Certificates) == 0 || config.Certificates[0].Leaf == nil {
		return "", nil
	}
	leaf := config.Certificates[0].Leaf
	from, until := leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339)
	switch {
	case now.Before(leaf.NotBefore):
		return "", fmt.Errorf("the certificate holds only from %s", from)
	case now.After(leaf.NotAfter):
		return "", fmt.Errorf("the certificate has ended at %s", until)
	case leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(leaf.NotBefore)/soon:
		return "", fmt.Errorf("the certificate ends soon, at %s, and was not renewed", until)
	}
	return "the certificate holds until " + until, nil
}

// Current returns the configuration of this moment, for looking at it; Config is the one to serve with.
func (s *Server) Current() *tls.Config { return s.files.current() }
