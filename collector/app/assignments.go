package app

import (
	"context"
	"net/http"
	"os"
	"sync"

	"tributary/collector/ownership/assignment"
	"tributary/collector/ownership/feed"
	"tributary/service/log"
)

// startAssignments starts the feeds of assignments that are configured. It returns the API's handler.
func (c *collector) startAssignments() (http.Handler, error) {
	metrics, err := assignment.NewMetrics(c.registry)
	if err != nil {
		return nil, err
	}
	logger := c.limited.With(log.Component, "ownership/assignment")
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	c.stops = append(c.stops, func(context.Context) {
		cancel()
		running.Wait()
	})
	source := func(kind string) *assignment.Source {
		return assignment.New(kind, c.id, c.book, c.hold.Wake, metrics, logger)
	}
	if path := c.cfg.Assignments; path != "" {
		file := source(assignment.File)
		running.Go(func() { file.RunFile(ctx, path) })
	}
	if topic := c.cfg.Bus.AssignmentTopic; topic != "" {
		tlsConfig, err := busTLS(c.cfg)
		if err != nil {
			return nil, err
		}
		k := c.cfg.KafkaConfig()
		transport, err := k.Transport(tlsConfig, topic)
		if err != nil {
			return nil, err
		}
		from := source(assignment.Kafka)
		taker := assignment.NewTopic(from)
		reader := feed.NewAssigned(k.Brokers, transport, topic, taker.Set, taker.Whole, logger)
		running.Go(func() { reader.Run(ctx) })
		running.Go(func() { from.Run(ctx, reader.Current) })
	}
	if k := c.cfg.Kubernetes; k.Enabled {
		client, err := connectKubernetes(c.cfg, c.log)
		if err != nil {
			return nil, err
		}
		cluster, err := assignment.NewCluster(source(assignment.Kubernetes), client, k.Network)
		if err != nil {
			return nil, err
		}
		running.Go(func() { cluster.Run(ctx) })
	}
	api := source(assignment.API)
	running.Go(func() { api.Run(ctx, api.Used) })
	_ = os.MkdirAll(c.cfg.Data, 0o750) // what is wrong shows in the next step
	handler, err := assignment.NewHandler(api, c.cfg.Data)
	if err != nil {
		c.log.Warn("the API takes no assignments", "reason", err)
	}
	return handler, nil
}
