package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

func TestExpiry(t *testing.T) {
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	config := &tls.Config{Certificates: []tls.Certificate{{Leaf: &x509.Certificate{NotBefore: from, NotAfter: from.Add(100 * time.Hour)}}}}
	for hours, want := range map[int]string{
		-1: "only from 2026-11-01T00:00:00Z", 1: "holds until 2026-11-05T04:00:00Z", 89: "holds until", 91: "ends soon", 101: "has ended",
	} {
		fine, err := Expiry(config, from.Add(time.Duration(hours)*time.Hour))
		if err != nil {
			fine += err.Error()
		}
		if !strings.Contains(fine, want) || (err == nil) != strings.Contains(want, "until") {
			t.Errorf("after %d h: %q, %v", hours, fine, err)
		}
	}
	if fine, err := Expiry(new(tls.Config), from); fine != "" || err != nil {
		t.Errorf("without a certificate: %q, %v", fine, err)
	}
}
