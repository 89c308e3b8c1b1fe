package tlsconf

import (
	"strings"
	"testing"

	"tributary/service/tlsconf/tlstest"
)

// TestItself: the certificate of the file and no other, though it is of an unknown authority and for another name.
func TestItself(t *testing.T) {
	own, other := t.TempDir(), t.TempDir()
	authority := tlstest.New(t, "an authority")
	authority.Issue(own, "exporter.example")
	authority.Issue(other, "exporter.example")
	cert, key, ca := tlstest.Files(own)
	o, _ := options("test")
	server, err := NewServer(ServerFiles{Cert: cert, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, server.Config())
	config, err := Itself(cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask(address, config); err != nil {
		t.Errorf("its own certificate: %v", err)
	}
	cert, key, _ = tlstest.Files(other)
	for _, path := range []string{cert, ca} { // also not that of its authority
		config, err := Itself(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ask(address, config); err == nil || !strings.Contains(err.Error(), "is not the one in "+path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{key, "missing"} {
		if _, err := Itself(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
