package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificates are the files of a certificate authority that lives as long as the run, and of the collector's certificate.
type certificates struct{ ca, cert, key string }

func makeCertificates(dir string) (certificates, error) {
	files := certificates{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return files, fmt.Errorf("make a key: %w", err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "benchmark CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return files, fmt.Errorf("make a key: %w", err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "collector"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return files, fmt.Errorf("encode a key: %w", err)
	}
	for _, f := range []struct {
		path, kind string
		der        func() ([]byte, error)
	}{
		{files.ca, "CERTIFICATE", func() ([]byte, error) { return x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey) }},
		{files.cert, "CERTIFICATE", func() ([]byte, error) { return x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey) }},
		{files.key, "EC PRIVATE KEY", func() ([]byte, error) { return keyDER, nil }},
	} {
		der, err := f.der()
		if err != nil {
			return files, fmt.Errorf("make %s: %w", filepath.Base(f.path), err)
		}
		if err := os.WriteFile(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: der}), 0o600); err != nil {
			return files, err
		}
	}
	return files, nil
}
