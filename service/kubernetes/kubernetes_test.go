package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfigurationsThatCannotBeUsed(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	const secret = "c2VjcmV0LW9mLXRoZS10ZXN0"
	for name, c := range map[string]struct{ text, want string }{
		"none":           {"", "service account"},
		"missing":        {"-", "no such file"},
		"no YAML":        {"users: [{user: {token: " + secret + "}", "yaml"},
		"another form":   {"users: " + secret, "cannot unmarshal"},
		"no cluster":     {"apiVersion: v1\nkind: Config\nusers: [{name: u, user: {token: " + secret + "}}]\n", "invalid configuration"},
		"no certificate": {kubeconfig("certificate-authority-data: "+secret, secret), "certificate"},
		"no authority":   {kubeconfig("certificate-authority: missing.pem", secret), "missing.pem"},
	} {
		file := ""
		if c.text != "" {
			file = filepath.Join(t.TempDir(), "kubeconfig")
		}
		if c.text != "" && c.text != "-" {
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Connect(Options{Kubeconfig: file}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func kubeconfig(cluster, token string) string {
	return `
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1", ` + cluster + `}}]
users: [{name: u, user: {token: ` + token + `}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
`
}

// script is an API that answers what the test says.
type script struct {
	mu     sync.Mutex
	fail   error
	names  []string
	stream *watch.FakeWatcher
}

func (s *script) objects() Objects {
	return Objects{
		List: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			list := &metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
			for _, n := range s.names {
				list.Items = append(list.Items, *object(n))
			}
			return list, s.fail
		},
		Watch: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if o.SendInitialEvents != nil && s.fail == nil {
				return nil, apierrors.NewBadRequest("this server is too old for that")
			}
			if s.fail == nil {
				s.stream = watch.NewFake()
			}
			return s.stream, s.fail
		},
	}
}

func (s *script) set(fail error, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.names = fail, names
}

func object(name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "2"}}
}

// names is a sink.
type names struct {
	mu   sync.Mutex
	have map[string]bool
}

func (n *names) change(object runtime.Object, is bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	o, _ := meta.Accessor(object)
	if n.have[o.GetName()] = is; !is {
		delete(n.have, o.GetName())
	}
}

func (n *names) Set(object runtime.Object)  { n.change(object, true) }
func (n *names) Gone(object runtime.Object) { n.change(object, false) }

func (n *names) Replace(objects []runtime.Object) {
	n.mu.Lock()
	n.have = map[string]bool{}
	n.mu.Unlock()
	for _, o := range objects {
		n.Set(o)
	}
}

func (n *names) are(want ...string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range want {
		if !n.have[w] {
			return false
		}
	}
	return len(n.have) == len(want)
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A server that refuses, answers, breaks off and answers again; one that is too old to send lists as watches, at that.
func TestFollowing(t *testing.T) {
	s, sink, said := &script{}, &names{have: map[string]bool{}}, &bytes.Buffer{}
	s.set(apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no")))
	f := Follow("pods", s.objects(), sink, slog.New(slog.NewTextHandler(said, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	until(t, "refusals are counted", func() bool { return f.Errors() >= 3 })
	if !f.Since().IsZero() || !sink.are() {
		t.Error("refused, it tells things")
	}
	s.set(nil, "a", "b")
	until(t, "it follows", func() bool { return !f.Since().IsZero() && sink.are("a", "b") })
	s.stream.Add(object("c"))
	s.stream.Delete(object("a"))
	until(t, "it hears of changes", func() bool { return sink.are("b", "c") })
	began := f.Since()
	s.set(errors.New("connection reset"))
	s.stream.Stop()
	until(t, "the end is noticed", func() bool { return f.Since().IsZero() })
	if !sink.are("b", "c") {
		t.Error("without a server things are forgotten")
	}
	s.set(nil, "d")
	until(t, "it follows again", func() bool { return f.Since().After(began) && sink.are("d") })
	cancel()
	<-done
	for text, want := range map[string]int{"cannot be asked": 2, "answers again": 2, "forbidden": 1, "connection reset": 1} {
		if n := strings.Count(said.String(), text); n != want {
			t.Errorf("%q is said %d times:\n%s", text, n, said)
		}
	}
}
