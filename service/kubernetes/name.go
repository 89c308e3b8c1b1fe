package kubernetes

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// annotationHash stands at the mirror of a static pod: the hash of its manifest, which its cgroups carry in the place of the UID.
const annotationHash = "kubernetes.io/config.hash"

// Meta is what a pod's name follows from, whether a file or the API says it.
type Meta struct {
	UID         string            `json:"uid"`
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Owners      []Owner           `json:"ownerReferences"`
}

// Owner is an entry of ownerReferences.
type Owner struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Controller bool   `json:"controller"`
}

// MetaOf is that of an object of the API.
func MetaOf(o metav1.Object) Meta {
	m := Meta{UID: string(o.GetUID()), Name: o.GetName(), Namespace: o.GetNamespace(), Labels: o.GetLabels(), Annotations: o.GetAnnotations()}
	if controller := metav1.GetControllerOfNoCopy(o); controller != nil {
		m.Owners = []Owner{{Kind: controller.Kind, Name: controller.Name, Controller: true}}
	}
	return m
}

// WorkloadName is what people deployed: of a Deployment's ReplicaSet the name without the hash that tells its generations
// apart, of any other controller its own, of a pod without one the pod's.
func (m *Meta) WorkloadName() string {
	for _, o := range m.Owners {
		if !o.Controller || o.Kind == "Node" {
			continue
		}
		if hash := m.Labels["pod-template-hash"]; o.Kind == "ReplicaSet" && hash != "" {
			return strings.TrimSuffix(o.Name, "-"+hash)
		}
		if o.Name != "" {
			return o.Name
		}
		break
	}
	return m.Name
}

// Release is the pod's app.kubernetes.io/version.
func (m *Meta) Release() string { return m.Labels["app.kubernetes.io/version"] }

// StaticHash is what the cgroups of a static pod carry in the place of its UID; "" of others.
func (m *Meta) StaticHash() string { return m.Annotations[annotationHash] }
