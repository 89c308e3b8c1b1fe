package containers

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
		Metadata struct {
			UID         string            `json:"uid"`
			Name        string            `json:"name"`
			Namespace   string            `json:"namespace"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
			Owners      []podOwner        `json:"ownerReferences"`
		} `json:"metadata"`
	} `json:"items"`
}

type podOwner struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Controller bool   `json:"controller"`
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
		name := controllerName(m.Owners, m.Labels)
		if name == "" {
			name = m.Name
		}
		if !isUID(m.UID) || !isName(m.Namespace) || !isName(name) {
			continue
		}
		pod := Pod{Workload: m.Namespace + "/" + name, Instance: m.UID}
		if v := m.Labels["app.kubernetes.io/version"]; isName(v) {
			pod.Release = v
		}
		pods[m.UID] = pod
		// A static pod's cgroups carry the hash of its manifest; the UID is that of its mirror in the API.
		if hash := m.Annotations["kubernetes.io/config.hash"]; isUID(hash) {
			pods[hash] = pod
		}
	}
	return pods, nil
}

// controllerName is what people deployed: of a Deployment's ReplicaSet the name without the hash that tells its generations
// apart, of any other controller its own.
func controllerName(owners []podOwner, labels map[string]string) string {
	for _, o := range owners {
		if !o.Controller || o.Kind == "Node" {
			continue
		}
		if hash := labels["pod-template-hash"]; o.Kind == "ReplicaSet" && hash != "" {
			return strings.TrimSuffix(o.Name, "-"+hash)
		}
		return o.Name
	}
	return ""
}
