package config

import (
	"errors"
	"strings"
	"unicode"
)

// Kubernetes is the cluster whose Services and EndpointSlices are assignments.
type Kubernetes struct {
	Enabled    bool   `yaml:"kubernetes" usage:"assign the addresses of Services and endpoints as the Kubernetes API says: with the pod's own service account, or as --kubeconfig says"`
	Kubeconfig string `yaml:"kubeconfig" usage:"with --kubernetes: kubeconfig file that says how to reach the API"`
	Network    string `yaml:"kubernetes_network" usage:"with --kubernetes: address space of the cluster, as its exporters call it"`
}

func (k *Kubernetes) check() error {
	switch {
	case !k.Enabled && k.Kubeconfig != "":
		return errors.New("kubeconfig needs kubernetes: true")
	case k.Network == "" || len(k.Network) > 256 || strings.ContainsFunc(k.Network, unicode.IsControl):
		return errors.New("kubernetes_network is empty, longer than 256 bytes, or has control characters")
	}
	return nil
}
