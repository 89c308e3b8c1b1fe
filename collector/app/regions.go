package app

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"tributary/collector/attribute"
	"tributary/collector/config"
	"tributary/collector/ingest"
	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/collector/region"
	"tributary/service/log"
	"tributary/service/tlsconf"
)

// openRegions makes what asks other regions; nil, where there are none.
func (c *collector) openRegions() (attribute.Regions, error) {
	if c.cfg.Regions == "" {
		return nil, nil //nolint:nilnil // no regions is no error
	}
	var err error
	if c.regions, err = newRegions(c.cfg, func() { c.hold.Wake() }, c.registry, c.tlsMetrics, c.limited); err != nil {
		return nil, err
	}
	c.stops = append(c.stops, func(context.Context) { c.regions.Stop() })
	return c.regions, nil
}

func newRegions(cfg *config.Config, wake func(), reg prometheus.Registerer, m *tlsconf.Metrics, logger *slog.Logger) (*region.Resolver, error) {
	client, err := regionsClient(cfg, tlsconf.Options{Use: "regions", Log: logger, Metrics: m})
	if err != nil {
		return nil, err
	}
	conf := region.Config{Region: cfg.Region, File: cfg.Regions, Credentials: client.GRPC(), Wake: wake}
	return region.New(conf, reg, logger.With(log.Component, "region"))
}

// regionsClient is how this collector shows itself to others.
func regionsClient(cfg *config.Config, options tlsconf.Options) (*tlsconf.Client, error) {
	return tlsconf.NewClient(tlsconf.ClientFiles{CA: cmp.Or(cfg.RegionsCA, cfg.TLSClientCA), Cert: cfg.TLSCert, Key: cfg.TLSKey}, options)
}

// answerRegions is what answers other regions, nil where nobody may ask.
func (c *collector) answerRegions() (func(grpc.ServiceRegistrar), error) {
	if len(c.cfg.ResolveAllowed) == 0 {
		return nil, nil //nolint:nilnil // nobody is no error
	}
	allowed := func(ctx context.Context) bool {
		return session.Identified(c.cfg.ResolveAllowed, ingest.Identities(ctx))
	}
	s, err := region.NewServer(c.cfg.Region, c.table, allowed, time.Now, c.registry)
	if err != nil {
		return nil, err
	}
	return s.Register, nil
}

// resolvePatience is how long whois waits for another region.
const resolvePatience = 4 * time.Second

// elsewhere asks the region that an address belongs to, if that is another one.
func (c *collector) elsewhere(ctx context.Context, network string, addr netip.Addr, port uint16, at int64) (a ownership.Answer, in string, foreign bool) {
	if c.regions == nil {
		return a, "", false
	}
	network = cmp.Or(network, "default")
	if in, foreign = c.regions.RegionOf(network, addr.Unmap()); !foreign {
		return a, "", false
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(resolvePatience); ; {
		a, foreign = c.regions.Lookup(network, ownership.AddrFrom(addr), port, at, int64(c.cfg.Hold.Tolerance))
		if a.Why != ownership.Pending || time.Now().After(end) || ctx.Err() != nil {
			return a, in, foreign
		}
		<-tick.C
	}
}
