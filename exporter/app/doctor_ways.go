package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"tributary/exporter/config"
	"tributary/exporter/transport"
	"tributary/service/tlsconf"
)

// ways tries every way to the collector, and says which one a running exporter is on.
func (d *doctor) ways(ctx context.Context, c config.Config) {
	to, err := waysOf(c, tlsconf.Options{Use: "doctor", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		d.Must(err, "")
		return
	}
	if to.HTTPS.TLS != nil {
		if fine, err := tlsconf.Expiry(to.HTTPS.TLS(), time.Now()); fine != "" || err != nil {
			d.Should(err, fine)
		}
	}
	order := to.Order
	if len(order) == 1 && order[0] == transport.UDP { // never without a stream beside it
		order = append(order, transport.GRPC)
	}
	for _, way := range order {
		if way == transport.GRPC {
			d.Should(dial(ctx, c.Collector), "something listens at "+c.Collector)
		}
		err := to.Probe(ctx, way)
		if err != nil {
			err = fmt.Errorf("no collector over %s at %s: %w", way, to.Destination(way), err)
		}
		fine := fmt.Sprintf("a collector answers over %s at %s", way, to.Destination(way))
		if way == transport.UDP {
			fine = fmt.Sprintf("datagrams can be sent to %s; whether they arrive a running exporter finds out", to.Destination(way))
		}
		d.Should(err, fine)
	}
	if in := inUse(ctx, c); in.way != "" {
		text := fmt.Sprintf("the running exporter is on the way %s", in.way)
		if len(in.changes) > 0 {
			text += "; it changed its way: " + strings.Join(in.changes, ", ")
		}
		var err error
		if in.way != to.Order[0] {
			err = fmt.Errorf("%s; %s is preferred", text, to.Order[0])
		}
		d.Should(err, text)
	}
}

func dial(ctx context.Context, address string) error {
	dialer := net.Dialer{Timeout: 2 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("no collector at %s (--collector): %w", address, err)
	}
	return conn.Close()
}

// present is what a running exporter says about its way to the collector.
type present struct {
	way     transport.Way // "" if there is none, or it does not say
	changes []string      // how often for which reason
}

// maxMetrics bounds what is read of a running exporter.
const maxMetrics = 1 << 20

// inUse asks the metrics of an exporter that runs with the same configuration.
func inUse(ctx context.Context, c config.Config) (p present) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	scheme, by := "http://", &http.Transport{DisableKeepAlives: true}
	if c.MetricsTLS() {
		trusted, err := tlsconf.Itself(c.TLS.Cert)
		if err != nil {
			return p // said of the certificate already
		}
		scheme, by.TLSClientConfig = "https://", trusted
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+c.MetricsListen+"/metrics", nil)
	if err != nil {
		return p
	}
	answer, err := (&http.Client{Transport: by}).Do(r)
	if err != nil {
		return p
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(answer.Body, maxMetrics))
	for lines.Scan() {
		series, value, _ := strings.Cut(lines.Text(), "} ")
		name, label, _ := strings.Cut(series, "{")
		_, label, _ = strings.Cut(label, "=")
		label = strings.Trim(label, `"`)
		switch {
		case name == "tributary_exporter_transport_in_use" && value == "1":
			p.way = transport.Way(label)
		case name == "tributary_exporter_transport_switches_total" && value != "0":
			p.changes = append(p.changes, label+" "+value)
		}
	}
	return p
}
