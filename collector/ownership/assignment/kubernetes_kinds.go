package assignment

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tributary/service/kubernetes"
)

// kind takes the objects of one kind.
type kind struct {
	c    *Cluster
	name string
	set  func(object runtime.Object)
	gone func(group string)
	have map[string]struct{} // groups
}

func (c *Cluster) setService(object runtime.Object) {
	if s, ok := object.(*corev1.Service); ok {
		c.mark(groupOf(c.kinds[0], s), serviceEntries(s, c.network))
	}
}

func (c *Cluster) setSlice(object runtime.Object) {
	if s, ok := object.(*discoveryv1.EndpointSlice); ok {
		group := groupOf(c.kinds[1], s)
		c.bind(group, s)
		c.mark(group, sliceEntries(s, c.network, c.pods))
	}
}

func (c *Cluster) setPod(object runtime.Object) {
	o, err := meta.Accessor(object)
	if err != nil {
		return
	}
	m := kubernetes.MetaOf(o)
	name := podName{workload: m.Namespace + "/" + m.WorkloadName(), release: m.Release()}
	if before, known := c.pods[m.UID]; known && before == name {
		return
	}
	c.pods[m.UID] = name
	c.remark(m.UID)
}

func (c *Cluster) dropPod(group string) {
	uid := group[len(c.kinds[2].name)+1:]
	delete(c.pods, uid)
	c.remark(uid)
}

// remark looks again at the slices that have a pod. The caller holds the lock.
func (c *Cluster) remark(pod string) {
	for group := range c.users[pod] {
		c.mark(group, sliceEntries(c.slices[group], c.network, c.pods))
	}
}

// bind notes which pods a slice has; nil for none any more. The caller holds the lock.
func (c *Cluster) bind(group string, s *discoveryv1.EndpointSlice) {
	if before := c.slices[group]; before != nil {
		for i := range before.Endpoints {
			pod := targetPod(&before.Endpoints[i])
			if delete(c.users[pod], group); len(c.users[pod]) == 0 {
				delete(c.users, pod)
			}
		}
		delete(c.slices, group)
	}
	if s == nil {
		return
	}
	c.slices[group] = s
	for i := range s.Endpoints {
		if pod := targetPod(&s.Endpoints[i]); pod != "" {
			if c.users[pod] == nil {
				c.users[pod] = map[string]struct{}{}
			}
			c.users[pod][group] = struct{}{}
		}
	}
}

// groupOf names an object's entries. By the UID: another object of the same name is another one.
func groupOf(k *kind, o metav1.Object) string { return k.name + "/" + string(o.GetUID()) }

// Set implements kubernetes.Sink.
func (k *kind) Set(object runtime.Object) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	k.take(object, k.have)
}

// take takes one object, and notes it among those there are. More than the bound are left out.
func (k *kind) take(object runtime.Object, among map[string]struct{}) {
	o, err := meta.Accessor(object)
	if err != nil {
		return
	}
	group := groupOf(k, o)
	if _, known := among[group]; !known && len(among) >= maxClusterObjects {
		k.c.source.metrics.refused(k.c.source.kind, tooMany, 1)
		k.c.source.log.Warn("the cluster has more objects than are kept", "objects", k.name, "most", maxClusterObjects)
		return
	}
	among[group] = struct{}{}
	k.set(object)
}

// Gone implements kubernetes.Sink.
func (k *kind) Gone(object runtime.Object) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if o, err := meta.Accessor(object); err == nil {
		k.end(groupOf(k, o))
	}
}

// Replace implements kubernetes.Sink.
func (k *kind) Replace(objects []runtime.Object) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	now := make(map[string]struct{}, len(objects))
	for _, object := range objects {
		if o, err := meta.Accessor(object); err == nil {
			now[groupOf(k, o)] = struct{}{}
		}
	}
	var gone []string
	for group := range k.have {
		if _, still := now[group]; !still {
			gone = append(gone, group)
		}
	}
	slices.Sort(gone)
	for _, group := range gone {
		k.end(group)
	}
	k.have = make(map[string]struct{}, len(now))
	for _, object := range objects {
		k.take(object, k.have)
	}
}

func (k *kind) end(group string) {
	delete(k.have, group)
	k.gone(group)
}

// mark notes what a group says now. The caller holds the lock.
func (c *Cluster) mark(group string, entries []Entry) {
	kept := entries[:0]
	n := 0
	for _, e := range entries {
		if err := e.check(); err != nil {
			c.source.loaded(err)
			c.source.log.Warn("an assignment of the cluster is left out", "object", group, "reason", err)
			continue
		}
		if c.total-c.sizes[group]+n+len(e.Addresses) > maxClusterAddresses {
			c.source.metrics.refused(c.source.kind, tooMany, len(e.Addresses))
			c.source.log.Warn("the cluster has more addresses than are kept", "most", maxClusterAddresses)
			continue
		}
		kept, n = append(kept, e), n+len(e.Addresses)
	}
	c.total += n - c.sizes[group]
	if c.sizes[group] = n; n == 0 {
		delete(c.sizes, group)
	}
	now := time.Now()
	ended := now
	if since, stand := c.stand(); !c.alive.IsZero() && (!stand || c.alive.Before(since)) {
		ended = c.alive // this is what was missed, and nobody knows when it came
	}
	if c.first.IsZero() || ended.Before(c.first) {
		c.first = ended
	}
	c.dirty[group], c.last = kept, now
	select {
	case c.changed <- struct{}{}:
	default:
	}
}
