// Package kubernetestest gives a test one real Kubernetes API server with an etcd of its own.
//
// Objects, watches and access control are the real thing; there is no kubelet, scheduler or controller, so a test writes what they would. Both programs die with the
// test process, however that ends, and their directory is removed at the end of the test. The API server is the one that TRIBUTARY_KUBE_APISERVER names, which
// make test-kubernetes builds and sets; without it the test is skipped. The package is for tests only.
package kubernetestest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"tributary/deploy/dev/ports"
)

// Variable is the environment variable that names the API server's program.
const Variable = "TRIBUTARY_KUBE_APISERVER"

const (
	startMost  = 2 * time.Minute
	adminToken = "admin-of-a-test"
)

// Server is an API server. Its address and its objects stay over Stop and Restart.
type Server struct {
	URL string

	dir     string
	port    string
	program string
	etcd    string
	admin   *http.Client
	process *process
}

// process is a program that runs.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// New starts a server, or ends the test where there is none to start.
func New(t testing.TB) *Server {
	t.Helper()
	program := os.Getenv(Variable)
	if program == "" {
		t.Skip("this test needs a Kubernetes API server: run make test-kubernetes")
	}
	server, peer := ports.Address(t), "http://"+ports.Address(t)
	s := &Server{dir: t.TempDir(), program: program, URL: "https://" + server, etcd: "http://" + ports.Address(t)}
	_, s.port, _ = net.SplitHostPort(server)
	s.writeKeys(t)
	etcd := s.start(t, "etcd", "etcd", "--data-dir", filepath.Join(s.dir, "etcd"), "--listen-client-urls", s.etcd, "--advertise-client-urls", s.etcd,
		"--listen-peer-urls", peer, "--initial-cluster", "default="+peer, "--initial-advertise-peer-urls", peer, "--unsafe-no-fsync")
	t.Cleanup(etcd.kill)
	t.Cleanup(func() { s.process.kill() })
	s.Restart(t)
	return s
}

// Restart starts the API server, and waits until it serves.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.process = s.start(t, "kube-apiserver", s.program, "--etcd-servers", s.etcd, "--secure-port", s.port, "--bind-address", "127.0.0.1", "--advertise-address", "192.0.2.1",
		"--cert-dir", filepath.Join(s.dir, "certs"), "--token-auth-file", filepath.Join(s.dir, "tokens.csv"), "--authorization-mode", "RBAC",
		"--service-account-issuer", "https://kubernetes.test", "--service-account-key-file", filepath.Join(s.dir, "key.pem"),
		"--service-account-signing-key-file", filepath.Join(s.dir, "key.pem"), "--service-cluster-ip-range", "10.96.0.0/16",
		"--disable-admission-plugins", "ServiceAccount", "--shutdown-delay-duration", "0s")
	for deadline := time.Now().Add(startMost); ; time.Sleep(100 * time.Millisecond) {
		if s.ready() {
			return
		}
		select {
		case <-s.process.exited:
			t.Fatalf("the API server ended: %s", s.tail("kube-apiserver"))
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the API server does not serve: %s", s.tail("kube-apiserver"))
		}
	}
}

// Kill ends the API server as a crash would; etcd keeps its objects.
func (s *Server) Kill() { s.process.kill() }

// Pause stops the API server's process without closing its connections; Resume lets it go on.
func (s *Server) Pause() error { return s.process.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() error { return s.process.cmd.Process.Signal(syscall.SIGCONT) }

// Do sends a request as the cluster's administrator: the body is YAML or JSON, the answer JSON. Anything but success ends the test.
func (s *Server) Do(t testing.TB, method, path, body string) (answer map[string]any) {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(method, s.URL+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	got, err := s.admin.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	data, err = io.ReadAll(got.Body)
	if err != nil || got.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %s %v", method, path, got.Status, data, err)
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// collections say where objects of a kind are made.
var collections = map[string]string{
	"Namespace": "/api/v1/namespaces", "ServiceAccount": "/api/v1/namespaces/%s/serviceaccounts", "Pod": "/api/v1/namespaces/%s/pods",
	"Service": "/api/v1/namespaces/%s/services", "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices",
	"ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles", "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}

// Create makes the objects of a YAML file's text, those of other kinds left out, and returns the last one's UID.
func (s *Server) Create(t testing.TB, text string) (uid string) {
	t.Helper()
	for _, document := range strings.Split(text, "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Namespace string }
		}
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		path, known := collections[o.Kind]
		if !known {
			continue
		}
		if strings.Contains(path, "%s") {
			path = fmt.Sprintf(path, o.Metadata.Namespace)
		}
		meta, _ := s.Do(t, http.MethodPost, path, document)["metadata"].(map[string]any)
		uid, _ = meta["uid"].(string)
	}
	return uid
}

// Kubeconfig writes a file with which a service account reaches the server, by a token of its own.
func (s *Server) Kubeconfig(t testing.TB, namespace, account string) string {
	t.Helper()
	path := fmt.Sprintf("/api/v1/namespaces/%s/serviceaccounts/%s/token", namespace, account)
	status, _ := s.Do(t, http.MethodPost, path, `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}`)["status"].(map[string]any)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "test",
 "clusters": [{"name": "test", "cluster": {"server": %q, "certificate-authority": %q}}],
 "users": [{"name": "test", "user": {"token": %q}}],
 "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}`, s.URL, s.authority(), status["token"])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// authority is the certificate that the server makes for itself.
func (s *Server) authority() string { return filepath.Join(s.dir, "certs", "apiserver.crt") }

func (s *Server) ready() bool {
	if s.admin == nil {
		client, err := rest.HTTPClientFor(&rest.Config{Host: s.URL, BearerToken: adminToken, TLSClientConfig: rest.TLSClientConfig{CAFile: s.authority()}})
		if err != nil {
			return false // the certificate is not there yet
		}
		s.admin = client
	}
	answer, err := s.admin.Get(s.URL + "/readyz")
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

func (s *Server) writeKeys(t testing.TB) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, data := range map[string][]byte{"key.pem": text, "tokens.csv": []byte(adminToken + ",admin,admin,system:masters\n")} {
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// start runs a program that ends with this process at the latest. Its output is in a file.
func (s *Server) start(t testing.TB, name, program string, args ...string) *process {
	t.Helper()
	out, err := os.OpenFile(filepath.Join(s.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := &process{cmd: exec.Command(program, args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() { // from a thread that stays: the kernel sends the signal when the thread ends
		runtime.LockOSThread()
		defer close(p.exited)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

func (s *Server) tail(name string) []byte {
	log, _ := os.ReadFile(filepath.Join(s.dir, name+".log"))
	return log[max(0, len(log)-2000):]
}
