package containers

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tributary/service/kubernetes"
)

// PodsOf are the pods of one node, by their metadata.
func PodsOf(c *kubernetes.Client, node string) kubernetes.Objects {
	return c.Metadata(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, fields.OneTermEqualSelector("spec.nodeName", node).String())
}

// podSink takes what the API says of this node's pods. A pod that is gone keeps its name until 32,768 others have come.
type podSink struct {
	w       *Watcher
	present map[string]struct{} // UIDs
}

// Set implements kubernetes.Sink.
func (s *podSink) Set(object runtime.Object) {
	if s.set(object) {
		s.w.tell()
	}
}

// Gone implements kubernetes.Sink.
func (s *podSink) Gone(object runtime.Object) {
	if o, err := meta.Accessor(object); err == nil {
		s.w.mu.Lock()
		defer s.w.mu.Unlock()
		delete(s.present, string(o.GetUID()))
		s.w.pods = len(s.present)
	}
}

// Replace implements kubernetes.Sink.
func (s *podSink) Replace(objects []runtime.Object) {
	clear(s.present)
	changed := false
	for _, o := range objects {
		changed = s.set(o) || changed
	}
	s.w.mu.Lock()
	s.w.pods = len(s.present)
	s.w.mu.Unlock()
	if changed {
		s.w.tell()
	}
}

// set says whether a name is new. One that cannot be used is counted.
func (s *podSink) set(object runtime.Object) (changed bool) {
	o, err := meta.Accessor(object)
	if err != nil {
		s.w.errors.Add(1)
		return false
	}
	m := kubernetes.MetaOf(o)
	pod, ok := podOf(&m)
	if !ok {
		s.w.errors.Add(1)
		s.w.log.Warn("a pod of the Kubernetes API cannot be named", "uid", m.UID)
		return false
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if len(s.present) < maxPods {
		s.present[m.UID] = struct{}{}
	}
	s.w.pods = len(s.present)
	keys := []string{m.UID}
	if hash := m.StaticHash(); isUID(hash) {
		keys = append(keys, hash)
	}
	for _, key := range keys {
		if before, known := s.w.names.Get(key); !known || before != pod {
			s.w.names.Add(key, pod)
			changed = true
		}
	}
	return changed
}
