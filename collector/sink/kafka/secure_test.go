package kafka

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl/plain"

	"tributary/deploy/dev/kafkatest"
	"tributary/service/tlsconf/tlstest"
)

// TestTLSAndSASL writes to a broker whose only listener is SASL_SSL, with each mechanism.
func TestTLSAndSASL(t *testing.T) {
	keystore, roots := certificate(t)
	broker := kafkatest.New(t, strings.Join([]string{
		"listener.security.protocol.map=PLAINTEXT:SASL_SSL,CONTROLLER:PLAINTEXT",
		"ssl.keystore.type=PEM", "ssl.keystore.location=" + keystore,
		"ssl.truststore.type=PEM", "ssl.truststore.location=" + keystore + ".ca",
		"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512", "sasl.mechanism.inter.broker.protocol=PLAIN",
		"listener.name.plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required" +
			` username="admin" password="a" user_admin="a" user_collector="right";`,
		"listener.name.plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
		"listener.name.plaintext.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
	}, "\n"))
	tlsConfig := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	addScramUser(t, broker.Addr, tlsConfig)
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			s := secureSink(t, broker.Addr, tlsConfig, SASL{Mechanism: mechanism, Username: "collector", Password: "right"})
			var d dones
			s.Write(makeBatch(t, "x", 1, 10), d.done)
			flush(t, s, 20*time.Second)
			d.check(t, 1)
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		s := secureSink(t, broker.Addr, tlsConfig, SASL{Mechanism: "plain", Username: "collector", Password: "wrong"})
		expectReason(t, s, "Authentication")
	})
	t.Run("unknown authority", func(t *testing.T) {
		s := secureSink(t, broker.Addr, &tls.Config{MinVersion: tls.VersionTLS12}, SASL{Mechanism: "plain", Username: "collector", Password: "right"})
		expectReason(t, s, "certificate signed by unknown authority")
	})
}

func secureSink(t *testing.T, broker string, tlsConfig *tls.Config, sasl SASL) *Sink {
	t.Helper()
	cfg := testConfig(t, broker)
	cfg.SASL, cfg.WriteTimeout = sasl, 3*time.Second
	s, err := New(cfg, tlsConfig, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	s.Start(t.Context())
	return s
}

func expectReason(t *testing.T, s *Sink, want string) {
	t.Helper()
	var got error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if got = s.Ready(); got != nil && strings.Contains(got.Error(), want) {
			t.Log(got)
			return
		}
	}
	t.Errorf("Ready() = %v, want a sentence with %q", got, want)
}

func addScramUser(t *testing.T, broker string, tlsConfig *tls.Config) {
	t.Helper()
	client := &kafka.Client{Addr: kafka.TCP(broker), Timeout: 20 * time.Second, Transport: &kafka.Transport{
		TLS: tlsConfig, SASL: plain.Mechanism{Username: "admin", Password: "a"},
	}}
	salt := []byte("0123456789abcdef")
	for _, user := range []struct {
		mechanism kafka.ScramMechanism
		salted    []byte
	}{
		{kafka.ScramMechanismSha256, salted(t, sha256.New, salt)},
		{kafka.ScramMechanismSha512, salted(t, sha512.New, salt)},
	} {
		answer, err := client.AlterUserScramCredentials(t.Context(), &kafka.AlterUserScramCredentialsRequest{
			Upsertions: []kafka.UserScramCredentialsUpsertion{{
				Name: "collector", Mechanism: user.mechanism, Iterations: 4096, Salt: salt, SaltedPassword: user.salted,
			}},
		})
		if err != nil || answer.Results[0].Error != nil {
			t.Fatalf("add a SCRAM user: %v %v", err, answer)
		}
	}
}

// salted is the stored form of the password "right" (RFC 5802, section 2.2).
func salted[H hash.Hash](t *testing.T, h func() H, salt []byte) []byte {
	t.Helper()
	key, err := pbkdf2.Key(h, "right", salt, 4096, h().Size())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate makes a certificate for 127.0.0.1, as a PEM key store on disk and as a pool.
func certificate(t *testing.T) (path string, roots *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	authority := tlstest.New(t, "kafka")
	authority.Issue(dir, "kafka")
	certFile, keyFile, _ := tlstest.Files(dir)
	cert, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	store := append(key, cert...)
	path = filepath.Join(t.TempDir(), "kafka.pem")
	if err := os.WriteFile(path, store, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".ca", authority.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM())
	return path, roots
}
