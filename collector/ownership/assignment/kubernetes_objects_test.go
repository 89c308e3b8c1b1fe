package assignment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

func service(t testing.TB, text string) *corev1.Service { return object[corev1.Service](t, text) }

func slice(t testing.TB, text string) *discoveryv1.EndpointSlice {
	return object[discoveryv1.EndpointSlice](t, text)
}

func object[T any](t testing.TB, text string) *T {
	t.Helper()
	var o T
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return &o
}

// texts are entries in short.
func texts(entries []Entry) (out []string) {
	for _, e := range entries {
		out = append(out, fmt.Sprintf("%s %s %v %d", e.Workload, e.Instance, e.Addresses, e.Ports.From))
	}
	return out
}

func TestAddressesOfServices(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"both families, two ports, one of them UDP": {
			`{metadata: {namespace: shop, name: web, uid: u}, spec: {clusterIPs: [10.96.0.7, "fd00::7"], ports: [{port: 80}, {port: 53, protocol: UDP}, {port: 443, protocol: TCP}]}}`,
			[]string{"shop/web u [10.96.0.7 fd00::7] 80", "shop/web u [10.96.0.7 fd00::7] 443"},
		},
		"a load balancer": {
			`{metadata: {namespace: shop, name: web, uid: u}, spec: {clusterIPs: [10.96.0.7], ports: [{port: 80}]}, status: {loadBalancer: {ingress: [{ip: 192.0.2.9}, {hostname: lb.example}]}}}`,
			[]string{"shop/web u [10.96.0.7 192.0.2.9] 80"},
		},
		"headless":               {`{metadata: {namespace: shop, name: db, uid: u}, spec: {clusterIPs: [None], ports: [{port: 80}]}}`, nil},
		"another name":           {`{metadata: {namespace: shop, name: db, uid: u}, spec: {type: ExternalName, clusterIPs: [10.96.0.7], ports: [{port: 80}]}}`, nil},
		"somebody else's, too":   {`{metadata: {namespace: shop, name: db, uid: u}, spec: {externalIPs: [192.0.2.1], ports: [{port: 80}]}}`, nil},
		"ports that are no port": {`{metadata: {namespace: shop, name: db, uid: u}, spec: {clusterIPs: [10.96.0.7], ports: [{port: 0}, {port: 70000}, {port: -1}]}}`, nil},
		"no address":             {`{metadata: {namespace: shop, name: db, uid: u}, spec: {clusterIPs: ["10.96.0.7; DROP"], ports: [{port: 1}]}}`, nil},
	} {
		if got := texts(serviceEntries(service(t, c.text), "lab")); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAddressesOfEndpoints(t *testing.T) {
	pods := map[string]podName{"p1": {"shop/web", "1.2"}}
	const head = `addressType: IPv4, ports: [{port: 8080, protocol: TCP}, {port: 53, protocol: UDP}, {protocol: TCP}], metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web-svc}}`
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"a pod":           {`{` + head + `, endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, uid: p1}}]}`, []string{"shop/web p1 [10.1.0.1] 8080"}},
		"an unknown pod":  {`{` + head + `, endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, uid: p2}}]}`, nil},
		"no pod":          {`{` + head + `, endpoints: [{addresses: [198.51.100.1]}]}`, []string{"shop/web-svc  [198.51.100.1] 8080"}},
		"a node":          {`{` + head + `, endpoints: [{addresses: [10.2.0.1], targetRef: {kind: Node, uid: n}}]}`, []string{"shop/web-svc  [10.2.0.1] 8080"}},
		"a name":          {`{addressType: FQDN, ports: [{port: 1, protocol: TCP}], endpoints: [{addresses: [db.example], targetRef: {kind: Pod, uid: p1}}]}`, nil},
		"nobody's":        {`{addressType: IPv4, ports: [{port: 1, protocol: TCP}], endpoints: [{addresses: [10.1.0.1]}]}`, nil},
		"every port":      {`{addressType: IPv4, endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, uid: p1}}]}`, nil},
		"without address": {`{` + head + `, endpoints: [{addresses: [x], targetRef: {kind: Pod, uid: p1}}]}`, nil},
	} {
		if got := texts(sliceEntries(slice(t, c.text), "lab", pods)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// FuzzCluster says anything as objects: what is kept is valid and bounded, and nothing stays behind when they go.
func FuzzCluster(f *testing.F) {
	f.Add([]byte(`{"metadata":{"namespace":"a","name":"b","uid":"u"},"spec":{"clusterIPs":["10.0.0.1"],"ports":[{"port":80}]}}`),
		[]byte(`{"metadata":{"uid":"s"},"addressType":"IPv4","ports":[{"port":80,"protocol":"TCP"}],"endpoints":[{"addresses":["10.0.0.2"],"targetRef":{"kind":"Pod","uid":"p"}}]}`),
		[]byte(`{"metadata":{"namespace":"a","name":"b","uid":"p"}}`))
	f.Fuzz(func(t *testing.T, a, b, d []byte) {
		s, e, p := &corev1.Service{}, &discoveryv1.EndpointSlice{}, &metav1.PartialObjectMetadata{}
		_, _, _ = json.Unmarshal(a, s), json.Unmarshal(b, e), json.Unmarshal(d, p)
		r := newRig(t, Kubernetes)
		c := newCluster(r.Source, "default")
		for range 2 {
			for i, o := range []runtime.Object{s, e, p} {
				c.kinds[i].Set(o)
			}
		}
		c.apply()
		for sp := range r.held {
			if sp.ports.From == 0 || sp.workload == "" || len(sp.workload) > 512 {
				t.Errorf("held: %+v", sp)
			}
		}
		for i, o := range []runtime.Object{p, e, s} {
			c.kinds[2-i].Gone(o)
		}
		c.apply()
		if n := len(r.held) + len(c.pods) + len(c.slices) + len(c.users) + len(c.sizes) + c.total; n != 0 {
			t.Errorf("%d things stay behind", n)
		}
	})
}

// TestClusterInTime: what the API says counts from when it was seen to when it was gone; a gap in the hearing is nobody's, but of what is still the same.
func TestClusterInTime(t *testing.T) {
	r := newRig(t, Kubernetes)
	c := newCluster(r.Source, "default")
	hears, since := true, time.Now().Add(-standLeast)
	c.stand = func() (time.Time, bool) { return since, hears }
	web := service(t, `{metadata: {namespace: shop, name: web, uid: u1}, spec: {clusterIPs: [10.96.0.7], ports: [{port: 80}]}}`)
	db := service(t, `{metadata: {namespace: shop, name: db, uid: u2}, spec: {clusterIPs: [10.96.0.8], ports: [{port: 5432}]}}`)
	next := service(t, `{metadata: {namespace: shop, name: next, uid: u3}, spec: {clusterIPs: [10.96.0.7], ports: [{port: 80}]}}`)
	pod := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cache-0", UID: "p1"}}
	endpoints := slice(t, `{metadata: {namespace: shop, name: cache-1, uid: s1}, addressType: IPv4, ports: [{port: 6379, protocol: TCP}],
  endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, uid: p1}}]}`)
	c.kinds[0].Replace([]runtime.Object{web, db})
	c.kinds[1].Replace([]runtime.Object{endpoints})
	c.apply()
	if n := len(r.held); n != 2 {
		t.Errorf("%d addresses are held, one of a pod that is not known", n)
	}
	c.kinds[2].Replace([]runtime.Object{pod})
	c.ask = func(context.Context) error { return nil }
	c.vouch(t.Context())
	time.Sleep(20 * time.Millisecond)
	before := time.Now().Add(-10 * time.Millisecond)
	c.vouch(t.Context())
	check := func(what, addr string, port uint16, at time.Time, want string) {
		t.Helper()
		if got := r.owner(addr, port, at); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}

	// The API is away; one Service goes and another gets its address. Nobody sees when.
	hears = false
	c.vouch(t.Context())
	time.Sleep(time.Second) // of half a second the table says that whoever was there before still was
	away := time.Now().Add(-100 * time.Millisecond)
	c.kinds[0].Replace([]runtime.Object{db, next})
	hears, since = true, time.Now()
	time.Sleep(standLeast)
	c.vouch(t.Context())
	time.Sleep(20 * time.Millisecond)
	after := time.Now().Add(-10 * time.Millisecond)
	c.vouch(t.Context())
	check("heard", "10.96.0.7", 80, before, "shop/web")
	check("away", "10.96.0.7", 80, away, "gap")
	check("heard again", "10.96.0.7", 80, after, "shop/next")
	check("the same all the time, while away", "10.96.0.8", 5432, away, "shop/db")
	check("another port", "10.96.0.8", 5433, after, "no_evidence")
	check("an endpoint", "10.1.0.1", 6379, after, "shop/cache-0")

	// Gone while it is heard: the range ends then.
	gone := time.Now()
	c.kinds[0].Gone(db)
	c.apply()
	over := time.Now()
	time.Sleep(100 * time.Millisecond)
	c.vouch(t.Context())
	check("just before its end", "10.96.0.8", 5432, gone.Add(-5*time.Millisecond), "shop/db")
	if got := r.owner("10.96.0.8", 5432, over.Add(80*time.Millisecond)); got == "shop/db" {
		t.Error("after its end it is still named")
	}
	loads := r.counter("loads_total ok kubernetes")
	c.kinds[0].Set(next) // its status changed
	c.apply()
	if r.counter("loads_total ok kubernetes") != loads {
		t.Error("what says the same is taken for news")
	}
}

// A sign of life that does not come ends the vouching, though the watches seem to stand.
func TestClusterWithoutSignsOfLife(t *testing.T) {
	r := newRig(t, Kubernetes)
	c := newCluster(r.Source, "default")
	c.ask = func(context.Context) error { return errors.New("hangs") }
	c.kinds[0].Replace([]runtime.Object{service(t, `{metadata: {namespace: shop, name: web, uid: u1}, spec: {clusterIPs: [10.96.0.7], ports: [{port: 80}]}}`)})
	c.vouch(t.Context())
	if !c.alive.IsZero() || r.counter("api_errors_total") != 1 || r.counter("api_watching") != 0 {
		t.Errorf("heard at %v", c.alive)
	}
	c.ask = func(context.Context) error { return nil }
	c.vouch(t.Context())
	if c.alive.IsZero() || r.counter("api_errors_total") != 1 || r.counter("api_watching") != 1 {
		t.Errorf("heard at %v", c.alive)
	}
}

func TestClusterIsBounded(t *testing.T) {
	r := newRig(t, Kubernetes)
	c := newCluster(r.Source, "default")
	c.total = maxClusterAddresses - 1
	c.kinds[0].Replace([]runtime.Object{
		service(t, `{metadata: {namespace: shop, name: a, uid: u1}, spec: {clusterIPs: [10.96.0.7], ports: [{port: 80}]}}`),
		service(t, `{metadata: {namespace: shop, name: b, uid: u2}, spec: {clusterIPs: [10.96.0.8], ports: [{port: 80}]}}`),
		service(t, `{metadata: {namespace: shop, name: "b\u0007", uid: u3}, spec: {clusterIPs: [10.96.0.9], ports: [{port: 80}]}}`),
	})
	c.apply()
	if len(r.held) != 1 || r.counter("refused_total too_many kubernetes") != 1 || r.counter("loads_total error kubernetes") != 1 {
		t.Errorf("%d are held", len(r.held))
	}
}
