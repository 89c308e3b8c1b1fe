package assignment

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tributary/service/kubernetes"
)

const (
	askEvery = time.Second     // how often the API is asked for a sign of life
	askMost  = 2 * time.Second // and how long it has for that

	// settle is how long changes are gathered at least. Where applying them takes long they are gathered for 20 times as long.
	settle = 250 * time.Millisecond

	// standLeast is how long watches must stand before what they tell is known to be all: a new one begins with what was missed.
	standLeast = 250 * time.Millisecond

	maxClusterObjects   = 200_000 // of each kind
	maxClusterAddresses = 100_000 // with a port each; of one feed the table takes 131,072, past ones included
)

// Cluster feeds a Source with the Services and EndpointSlices of a Kubernetes cluster. Make it with NewCluster and Run it once.
//
// A Service's addresses belong to namespace/name, an endpoint to its pod's workload. They are vouched for while all watches stand and the API answers a
// question a second. What changed while they did not ended when the API was last heard, so that nothing is ever said of the time between; what comes back
// unchanged (its UID says so) is vouched for again from then on, that time included.
type Cluster struct {
	source    *Source
	network   string
	ask       func(context.Context) error
	stand     func() (since time.Time, all bool) // since when all watches stand
	followers []*kubernetes.Follower
	changed   chan struct{}

	mu     sync.Mutex
	kinds  [3]*kind
	pods   map[string]podName                    // by UID
	slices map[string]*discoveryv1.EndpointSlice // by group
	users  map[string]map[string]struct{}        // the slices that have a pod for an endpoint, by its UID
	dirty  map[string][]Entry                    // what changed, by group
	sizes  map[string]int                        // addresses of each group
	total  int
	alive  time.Time // up to when all was told
	first  time.Time // when the oldest of dirty ended, if it did
	last   time.Time // when the newest was seen

	failed uint64 // signs of life that did not come
	told   uint64 // errors that are counted
}

// Followed are the kinds of objects that a cluster's feed follows.
type Followed struct{ Services, EndpointSlices, Pods kubernetes.Objects }

// Follow says how a client follows them.
func Follow(client *kubernetes.Client) (f Followed, err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return f, fmt.Errorf("types of Kubernetes: %w", err)
		}
	}
	if f.Services, err = client.Whole(corev1.SchemeGroupVersion.WithResource("services"), scheme); err != nil {
		return f, err
	}
	if f.EndpointSlices, err = client.Whole(discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), scheme); err != nil {
		return f, err
	}
	f.Pods = client.Metadata(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "")
	return f, nil
}

// NewCluster makes the feed. network is the address space of the cluster.
func NewCluster(source *Source, client *kubernetes.Client, network string) (*Cluster, error) {
	followed, err := Follow(client)
	if err != nil {
		return nil, err
	}
	c := newCluster(source, network)
	for i, objects := range []kubernetes.Objects{followed.Services, followed.EndpointSlices, followed.Pods} {
		c.followers = append(c.followers, kubernetes.Follow(c.kinds[i].name, objects, c.kinds[i], source.log))
	}
	// A question that is cheap to answer, and that the same right allows.
	one := client.Metadata(schema.GroupVersionResource{Version: "v1", Resource: "services"}, "metadata.namespace=default,metadata.name=kubernetes")
	c.ask = func(ctx context.Context) error {
		_, err := one.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		return err
	}
	return c, nil
}

func newCluster(source *Source, network string) *Cluster {
	c := &Cluster{
		source: source, network: network, changed: make(chan struct{}, 1), pods: map[string]podName{}, slices: map[string]*discoveryv1.EndpointSlice{},
		users: map[string]map[string]struct{}{}, dirty: map[string][]Entry{}, sizes: map[string]int{},
	}
	c.kinds = [3]*kind{
		{name: "services", set: c.setService, gone: func(group string) { c.mark(group, nil) }},
		{name: "endpointslices", set: c.setSlice, gone: func(group string) { c.bind(group, nil); c.mark(group, nil) }},
		{name: "pods", set: c.setPod, gone: c.dropPod},
	}
	c.stand = c.standing
	for _, k := range c.kinds {
		k.c, k.have = c, map[string]struct{}{}
	}
	return c
}

// Run feeds until ctx ends.
func (c *Cluster) Run(ctx context.Context) {
	var following sync.WaitGroup
	defer following.Wait()
	for _, f := range c.followers {
		following.Go(func() { f.Run(ctx) })
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var rest time.Time // no changes are applied before
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.vouch(ctx)
		case <-c.changed:
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(rest)):
			}
			began := time.Now()
			c.apply()
			rest = time.Now().Add(max(settle, 20*time.Since(began)))
		}
	}
}

func (c *Cluster) standing() (since time.Time, all bool) {
	for _, f := range c.followers {
		of := f.Since()
		if of.IsZero() {
			return since, false
		}
		if of.After(since) {
			since = of
		}
	}
	return since, true
}

// vouch asks for a sign of life, and vouches for all up to the moment of asking.
func (c *Cluster) vouch(ctx context.Context) {
	now := time.Now()
	errors := c.failed
	for _, f := range c.followers {
		errors += f.Errors()
	}
	_, stand := c.stand()
	if stand {
		ctx, cancel := context.WithTimeout(ctx, askMost)
		err := c.ask(ctx)
		cancel()
		if err != nil {
			c.failed++
			errors++
		}
		since, still := c.stand()
		stand = err == nil && still && !since.After(now.Add(-standLeast))
	}
	c.source.metrics.apiErrors.Add(float64(errors - c.told))
	c.told = errors
	alive := 0.0
	if stand {
		alive = 1
		c.apply() // what was seen before now
		c.source.step(time.Now().UnixNano(), now.UnixNano())
		c.mu.Lock()
		c.alive = now
		c.mu.Unlock()
	}
	c.source.metrics.apiAlive.Set(alive)
}

// apply gives the source what has changed.
func (c *Cluster) apply() {
	c.mu.Lock()
	dirty, first, last := c.dirty, c.first, c.last
	c.dirty, c.first = map[string][]Entry{}, time.Time{}
	c.mu.Unlock()
	for group, entries := range dirty {
		if slices.EqualFunc(c.source.List(group), entries, same) {
			delete(dirty, group) // its status changed, say
		}
	}
	if len(dirty) > 0 {
		c.source.change(dirty, last, first)
		c.source.loaded(nil)
	}
}
