package assignment

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"tributary/collector/ownership"
	"tributary/deploy/dev/kubernetestest"
	"tributary/service/kubernetes"
)

// hearing is a real API server, and a feed of what it says.
type hearing struct {
	*rig
	*Cluster
	server *kubernetestest.Server
	said   *bytes.Buffer // read it when the feed has ended
	end    func()
}

func newHearing(t *testing.T) *hearing {
	h := &hearing{rig: newRig(t, Kubernetes), server: kubernetestest.New(t), said: &bytes.Buffer{}}
	for _, file := range []string{"exporter-rbac.yaml", "collector-rbac.yaml"} {
		rights, err := os.ReadFile("../../../deploy/kubernetes/" + file)
		if err != nil {
			t.Fatal(err)
		}
		h.server.Create(t, string(rights))
	}
	h.server.Create(t, "{kind: Namespace, apiVersion: v1, metadata: {name: shop}}")
	logger := slog.New(slog.NewTextHandler(h.said, nil))
	h.rig.log = logger
	client, err := kubernetes.Connect(kubernetes.Options{Kubeconfig: h.server.Kubeconfig(t, "tributary", "tributary-collector"), Program: "test"}, logger)
	if err != nil {
		t.Fatal(err)
	}
	if h.Cluster, err = NewCluster(h.rig.Source, client, "default"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { h.Cluster.Run(ctx); close(done) }()
	h.end = func() { cancel(); <-done }
	t.Cleanup(h.end)
	return h
}

// at asks who had an address a moment ago; nothing vouches but the feed itself.
func (h *hearing) at(addr string, port uint16, at time.Time) string {
	v := h.table.View(time.Now().UnixNano())
	a := v.Lookup(h.table.Network("default"), ownership.AddrFrom(netip.MustParseAddr(addr)), port, at.UnixNano(), int64(time.Millisecond))
	if a.Owner == nil {
		return a.Why.String()
	}
	return a.Owner.Workload
}

// until waits until an address is somebody's at the moment of asking.
func (h *hearing) until(what, addr string, port uint16, want string) time.Time {
	h.rig.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		moment := time.Now().Add(-1500 * time.Millisecond) // vouched for by now, if at all
		got := h.at(addr, port, moment)
		if got == want {
			return moment
		}
		if time.Now().After(deadline) {
			h.rig.t.Fatalf("%s: %s:%d is %s, want %s", what, addr, port, got, want)
		}
	}
}

func (h *hearing) service(name, ip string) {
	h.server.Create(h.rig.t, fmt.Sprintf(`{kind: Service, apiVersion: v1, metadata: {name: %s, namespace: shop}, spec: {clusterIP: %s, ports: [{port: 80}]}}`, name, ip))
}

func (h *hearing) remove(kind, name string) {
	h.server.Do(h.rig.t, "DELETE", "/api/v1/namespaces/shop/"+kind+"/"+name, "{gracePeriodSeconds: 0, kind: DeleteOptions, apiVersion: v1}")
}

func TestKubernetesAssigns(t *testing.T) {
	h := newHearing(t)
	h.service("web", "10.96.7.1")
	h.service("db", "10.96.7.2")
	pod := h.server.Create(t, `
kind: Pod
apiVersion: v1
metadata:
  name: cache-7f9c5d-x2k1v
  namespace: shop
  labels: {pod-template-hash: 7f9c5d}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: cache-7f9c5d, uid: 11111111-1111-1111-1111-111111111111, controller: true}]
spec: {nodeName: node-1, containers: [{name: c, image: i}]}`)
	h.server.Create(t, fmt.Sprintf(`
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: cache-1, namespace: shop, labels: {kubernetes.io/service-name: cache}}
addressType: IPv4
ports: [{port: 6379}]
endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, namespace: shop, name: cache-7f9c5d-x2k1v, uid: %s}}]
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: mainframe-1, namespace: shop, labels: {kubernetes.io/service-name: mainframe}}
addressType: IPv4
ports: [{port: 3270}]
endpoints: [{addresses: [192.168.9.9]}]`, pod))
	h.until("a Service", "10.96.7.1", 80, "shop/web")
	h.until("the API's own", "10.96.0.1", 443, "default/kubernetes")
	h.until("a pod by its controller", "10.1.0.1", 6379, "shop/cache")
	h.until("an endpoint without a pod", "192.168.9.9", 3270, "shop/mainframe")
	last := h.until("another Service", "10.96.7.2", 80, "shop/db").Add(300 * time.Millisecond) // not at the very beginning
	if got := h.at("10.96.7.1", 81, last); got != "no_evidence" {
		t.Errorf("another port: %s", got)
	}
	h.remove("services", "web")
	h.service("next", "10.96.7.1")
	h.until("the next Service with the address", "10.96.7.1", 80, "shop/next")
	if got := h.at("10.96.7.1", 80, last); got != "shop/web" {
		t.Errorf("before: %s", got)
	}

	// The API server stops in the middle of a sentence, is killed, and one Service is replaced while nobody hears it.
	if err := h.server.Pause(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	if got := h.at("10.96.7.2", 80, time.Now().Add(-time.Second)); got != "pending" && got != "no_evidence" {
		t.Errorf("while the API hangs: %s", got)
	}
	away := time.Now()
	h.server.Kill()
	h.server.Restart(t)
	h.remove("services", "next")
	h.service("after", "10.96.7.1")
	h.until("after the outage", "10.96.7.1", 80, "shop/after")
	h.until("what did not change", "10.96.7.2", 80, "shop/db")
	if next, db := h.at("10.96.7.1", 80, away), h.at("10.96.7.2", 80, away); next != "gap" || db != "shop/db" {
		t.Errorf("in the outage: %s and %s", next, db)
	}
	h.end()
	if said := h.said.String(); strings.Contains(said, "Bearer") || strings.Count(said, "cannot be asked") > 6 {
		t.Errorf("the log:\n%s", said)
	}
}

// Without the rights nothing is assigned, and it is counted and said once for each kind of object.
func TestKubernetesRefusesToTell(t *testing.T) {
	h := newHearing(t)
	h.server.Do(t, "DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/tributary-collector", "")
	h.server.Kill() // what was opened before stays open otherwise
	h.server.Restart(t)
	for deadline := time.Now().Add(time.Minute); h.followers[1].Errors() < 3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("refusals are not counted")
		}
	}
	if got := h.counter("api_watching"); got != 0 {
		t.Errorf("api_watching is %v", got)
	}
	h.end()
	if said := h.said.String(); !strings.Contains(said, "forbidden") {
		t.Errorf("the log:\n%s", said)
	}
}
