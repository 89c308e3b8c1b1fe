package containers

import (
	"encoding/json"
	"errors"
	"fmt"

	"tributary/service/kubernetes"
)

const (
	maxPodList = 64 << 20
	maxPods    = 16_384
)

// Pod is what a pod is called.
type Pod struct{ Workload, Instance, Release string }

// podList is what we read of a Kubernetes v1.PodList.
type podList struct {
	Kind  string `json:"kind"`
	Items []struct {
		Metadata kubernetes.Meta `json:"metadata"`
	} `json:"items"`
}

// parsePods reads a PodList. Pods that cannot be named are left out.
func parsePods(data []byte) (map[string]Pod, error) {
	var list podList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("it is no PodList: %w", err)
	}
	if list.Kind != "PodList" && list.Kind != "List" {
		return nil, errors.New("it is no PodList")
	}
	if len(list.Items) > maxPods {
		return nil, fmt.Errorf("it has more than %d pods", maxPods)
	}
	pods := make(map[string]Pod, len(list.Items))
	for i := range list.Items {
		m := &list.Items[i].Metadata
		pod, ok := podOf(m)
		if !ok {
			continue
		}
		pods[m.UID] = pod
		// A static pod's cgroups carry the hash of its manifest; the UID is that of its mirror in the API.
		if hash := m.StaticHash(); isUID(hash) {
			pods[hash] = pod
		}
	}
	return pods, nil
}

// podOf is what a pod is called; ok is false if it cannot be named.
func podOf(m *kubernetes.Meta) (pod Pod, ok bool) {
	name := m.WorkloadName()
	if !isUID(m.UID) || !isName(m.Namespace) || !isName(name) {
		return Pod{}, false
	}
	pod = Pod{Workload: m.Namespace + "/" + name, Instance: m.UID}
	if v := m.Release(); isName(v) {
		pod.Release = v
	}
	return pod, true
}
