package containers

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/deploy/dev/kubernetestest"
	"tributary/service/kubernetes"
)

// cluster is a real API server, and a watcher of the pods of its node node-1.
type cluster struct {
	*rig
	server *kubernetestest.Server
	log    *bytes.Buffer // read it when the watcher has ended
	end    func()
}

// newCluster starts both; setup makes the first objects.
func newCluster(t *testing.T, setup func(*kubernetestest.Server)) *cluster {
	server := kubernetestest.New(t)
	rights, err := os.ReadFile("../../deploy/kubernetes/exporter-rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	server.Create(t, string(rights))
	server.Create(t, "{kind: Namespace, apiVersion: v1, metadata: {name: shop}}")
	setup(server)
	c := &cluster{server: server, log: &bytes.Buffer{}}
	logger := slog.New(slog.NewTextHandler(c.log, nil))
	client, err := kubernetes.Connect(kubernetes.Options{Kubeconfig: server.Kubeconfig(t, "tributary", "tributary-exporter"), Program: "test"}, logger)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := New(Options{Host: "host", Roots: []string{filepath.Join(dir, "runc")}, Docker: dir, Kubernetes: client, Node: "node-1"}, prometheus.NewRegistry(), logger)
	if err != nil {
		t.Fatal(err)
	}
	c.rig = &rig{T: t, Watcher: w}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	ended := false
	c.end = func() {
		if cancel(); !ended {
			<-done
			ended = true
		}
	}
	t.Cleanup(c.end)
	return c
}

// pod makes a pod of a Deployment on a node.
func pod(t *testing.T, s *kubernetestest.Server, name, node string) (uid string) {
	t.Helper()
	return s.Create(t, fmt.Sprintf(`
kind: Pod
apiVersion: v1
metadata:
  name: %s-7f9c5d-x2k1v
  namespace: shop
  labels: {pod-template-hash: 7f9c5d, app.kubernetes.io/version: "1.2"}
  annotations: {secret.example/note: "not for us"}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: %[1]s-7f9c5d, uid: 11111111-1111-1111-1111-111111111111, controller: true}]
spec: {nodeName: %s, containers: [{name: c, image: i}]}`, name, node))
}

func (c *cluster) named(uid, want string) func() bool {
	return func() bool {
		found, _ := c.Find("", uid)
		return found.Workload == want
	}
}

func TestKubernetesNamesPods(t *testing.T) {
	var web, elsewhere string
	c := newCluster(t, func(s *kubernetestest.Server) {
		web, elsewhere = pod(t, s, "web", "node-1"), pod(t, s, "elsewhere", "node-2")
	})
	c.until("a pod that was there is named", c.named(web, "shop/web"))
	if got, _ := c.Find("", web); got.Instance != web || got.Release != "1.2" {
		t.Errorf("%+v", got)
	}
	api := pod(t, c.server, "api", "node-1")
	c.until("a new pod is named", c.named(api, "shop/api"))
	if got, ok := c.Find("", elsewhere); ok {
		t.Errorf("another node's pod: %+v", got)
	}
	remove := func(name string) {
		c.server.Do(t, "DELETE", "/api/v1/namespaces/shop/pods/"+name+"-7f9c5d-x2k1v", "{gracePeriodSeconds: 0, kind: DeleteOptions, apiVersion: v1}")
	}
	pods := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.Watcher.pods
	}
	remove("web")
	c.until("one is gone", func() bool { return pods() == 1 })
	if !c.named(web, "shop/web")() {
		t.Error("a pod that is gone has lost its name")
	}

	// The API server dies: names stay, and what changes meanwhile is seen when it is back.
	c.server.Kill()
	c.until("its end is counted", func() bool { return c.api.Errors() > 0 && c.api.Since().IsZero() })
	if !c.named(web, "shop/web")() || !c.named(api, "shop/api")() {
		t.Error("without the API there are no names")
	}
	c.server.Restart(t)
	late := pod(t, c.server, "late", "node-1")
	for deadline := time.Now().Add(time.Minute); !c.named(late, "shop/late")(); time.Sleep(20 * time.Millisecond) { // it waits up to 30 s between attempts
		if time.Now().After(deadline) {
			t.Fatal("after the API server's restart new pods have no names")
		}
	}
	c.end()
	said := c.log.String()
	if n := strings.Count(said, "cannot be asked"); n < 1 || n > 2 || strings.Count(said, "answers again") != n {
		t.Errorf("an outage is said %d times:\n%s", n, said)
	}
}

// Without the right to hear of pods the watcher says so once, and goes on.
func TestKubernetesRefusesPods(t *testing.T) {
	var web string
	c := newCluster(t, func(s *kubernetestest.Server) {
		web = pod(t, s, "web", "node-1")
		s.Do(t, "DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/tributary-exporter", "")
	})
	c.until("the refusals are counted", func() bool { return c.api.Errors() > 1 })
	if _, err := c.opts.Kubernetes.Check(t.Context(), PodsOf(c.opts.Kubernetes, "node-1")); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("the check says %v", err)
	}
	if c.named(web, "shop/web")() {
		t.Error("who named it?")
	}
	c.end()
	if said := c.log.String(); strings.Count(said, "cannot be asked") != 1 || !strings.Contains(said, "forbidden") || strings.Contains(said, "Bearer") {
		t.Errorf("the log:\n%s", said)
	}
}
