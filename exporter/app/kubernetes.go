package app

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"tributary/exporter/config"
	"tributary/exporter/containers"
	"tributary/service/kubernetes"
)

// connectKubernetes reads how the API is reached; nil if it is not to be asked.
func connectKubernetes(c config.Config, logger *slog.Logger) (*kubernetes.Client, error) {
	if !c.Kubernetes.Enabled {
		return nil, nil
	}
	return kubernetes.Connect(kubernetes.Options{Kubeconfig: c.Kubernetes.Kubeconfig, Program: "tributary-exporter"}, logger)
}

// nodeName is what kubelets call a host, unless they were told otherwise.
func nodeName(c config.Config, h host) string {
	if c.Kubernetes.NodeName != "" {
		return c.Kubernetes.NodeName
	}
	return strings.ToLower(h.name)
}

// askingMost bounds the doctor's wait for the API.
const askingMost = 5 * time.Second

// kubernetes asks the API what a running exporter would.
func (d *doctor) kubernetes(ctx context.Context, c config.Config) {
	if !c.Kubernetes.Enabled {
		return
	}
	client, err := connectKubernetes(c, slog.New(slog.DiscardHandler))
	if err != nil {
		d.Must(err, "")
		return
	}
	h, err := readHost()
	if err != nil {
		d.Must(err, "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askingMost)
	defer cancel()
	node := nodeName(c, h)
	n, err := client.Check(ctx, containers.PodsOf(client, node))
	switch {
	case err != nil:
		err = fmt.Errorf("the Kubernetes API at %s does not tell of pods: %w", client.Host(), err)
	case n == 0:
		err = fmt.Errorf("the Kubernetes API at %s has no pods on the node %s: is --node-name right?", client.Host(), node)
	}
	d.Should(err, fmt.Sprintf("the Kubernetes API at %s names the pods of the node %s: %d", client.Host(), node, n))
}
