package app

import (
	"context"
	"fmt"
	"log/slog"

	"tributary/collector/config"
	"tributary/collector/ownership/assignment"
	"tributary/service/kubernetes"
)

// connectKubernetes reads how the API is reached.
func connectKubernetes(cfg *config.Config, logger *slog.Logger) (*kubernetes.Client, error) {
	return kubernetes.Connect(kubernetes.Options{Kubeconfig: cfg.Kubernetes.Kubeconfig, Program: "tributary-collector"}, logger)
}

// kubernetes asks the API what a running collector would, one line for each kind of object.
func (d *doctor) kubernetes() {
	if !d.cfg.Kubernetes.Enabled {
		return
	}
	client, err := connectKubernetes(d.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		d.Must(err, "")
		return
	}
	followed, err := assignment.Follow(client)
	if err != nil {
		d.Must(err, "")
		return
	}
	for _, kind := range []struct {
		name    string
		objects kubernetes.Objects
	}{{"Services", followed.Services}, {"EndpointSlices", followed.EndpointSlices}, {"pods", followed.Pods}} {
		ctx, cancel := context.WithTimeout(d.ctx, doctorPatience)
		_, err := client.Check(ctx, kind.objects)
		cancel()
		if err != nil {
			err = fmt.Errorf("the Kubernetes API at %s does not tell of %s: %w", client.Host(), kind.name, err)
		}
		d.Should(err, fmt.Sprintf("the Kubernetes API at %s tells of %s", client.Host(), kind.name))
	}
}
