package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"tributary/collector/ownership"
	"tributary/collector/ownership/assignment"
	"tributary/collector/query"
	"tributary/service/listen"
	"tributary/service/tlsconf"
)

// startAPI serves the collector's HTTP API. It only reads, assignments and settings apart, and answers no page of another site (a request with an Origin header).
func (c *collector) startAPI(ctx context.Context, assignments http.Handler) error {
	if c.cfg.APIListen == "" {
		return nil
	}
	l, err := listen.TCP(ctx, "--api-listen", c.cfg.APIListen)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+query.WhoisPath, c.answerWhois)
	mux.HandleFunc("GET "+query.DisagreementsPath, c.answerDisagreements)
	mux.Handle(assignment.Path, assignments)
	c.settings.Register(mux)
	s := &http.Server{
		Handler: sameSite(mux), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	withTLS := c.tls != nil && tlsconf.CheckListener("", c.cfg.APIListen, false, false) != nil
	if withTLS {
		s.TLSConfig = c.tls.Config()
	}
	go func() {
		var err error
		if withTLS {
			err = s.ServeTLS(l, "", "")
		} else {
			err = s.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			c.failed <- fmt.Errorf("API: %w", err)
		}
	}()
	c.stops = append(c.stops, func(ctx context.Context) { _ = s.Shutdown(ctx) })
	return nil
}

func sameSite(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" {
			http.Error(w, "requests of web pages are not answered", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// answerWhois answers from the ownership table.
func (c *collector) answerWhois(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	addr, err := netip.ParseAddr(q.Get("address"))
	if err != nil {
		http.Error(w, "address must be an IP address", http.StatusBadRequest)
		return
	}
	at := time.Now().Add(-query.WhoisLately)
	if text := q.Get("at"); text != "" {
		if at, err = time.Parse(time.RFC3339Nano, text); err != nil {
			http.Error(w, "at must be a time as in 2026-11-20T14:03:00Z", http.StatusBadRequest)
			return
		}
		if at.Unix() < 0 || at.After(time.Now().Add(time.Hour)) {
			http.Error(w, "at must be after 1970 and not in the future: nobody can know yet who will have the address", http.StatusBadRequest)
			return
		}
	}
	port, err := strconv.ParseUint(cmp.Or(q.Get("port"), "0"), 10, 16)
	if err != nil {
		http.Error(w, "port must be a number from 0 to 65535", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(c.whois(r.Context(), addr, uint16(port), at, q.Get("network"))) // a client that went away
}

const (
	whoisAround   = 15 * time.Minute // how far around the time ranges are shown
	maxWhoisRange = 1000             // how many of them
)

// whois asks the table in one network, or in all where the address was claimed around that time; where it was in none, why not.
func (c *collector) whois(ctx context.Context, addr netip.Addr, port uint16, at time.Time, network string) *query.WhoisAnswer {
	out := &query.WhoisAnswer{Address: addr.Unmap().String(), At: at, Source: "ownership"}
	if answer, in, foreign := c.elsewhere(ctx, network, addr, port, at.UnixNano()); foreign {
		out.Answers = append(out.Answers, whoisOwner(cmp.Or(network, "default"), in, &answer))
		return out
	}
	v := c.table.View(time.Now().UnixNano())
	a := ownership.AddrFrom(addr)
	ask := func(name string, id ownership.NetworkID) {
		answer := v.Lookup(id, a, port, at.UnixNano(), int64(c.cfg.Hold.Tolerance))
		out.Answers = append(out.Answers, whoisOwner(name, "", &answer))
	}
	from, to := at.Add(-whoisAround).UnixNano(), at.Add(whoisAround).UnixNano()
	c.table.Networks(func(name string, id ownership.NetworkID) bool {
		if network != "" && name != network {
			return true
		}
		ranges := v.Ranges(id, a, from, to)
		if len(ranges) == 0 {
			return true
		}
		ask(name, id)
		for i := range ranges {
			out.Ranges = append(out.Ranges, whoisRange(name, &ranges[i]))
		}
		return len(out.Ranges) < maxWhoisRange
	})
	if len(out.Answers) == 0 {
		ask(network, c.table.Network(network))
	}
	slices.SortFunc(out.Ranges, func(x, y query.WhoisRange) int { return x.From.Compare(y.From) })
	slices.SortFunc(out.Answers, func(x, y query.WhoisOwner) int { return strings.Compare(x.Network, y.Network) })
	return out
}

// whoisOwner shows an answer; in is the region that gave it, if it is another one.
func whoisOwner(network, in string, a *ownership.Answer) query.WhoisOwner {
	out := query.WhoisOwner{Network: network, Region: in, Evidence: "none", Why: a.Why.String()}
	o := a.Owner
	if o == nil {
		return out
	}
	out.Workload, out.Instance, out.Zone, out.Region, out.Release = o.Workload, o.Instance, o.Zone, o.Region, o.Release
	out.Evidence = "claim"
	if o.Assigned {
		out.Evidence = "assignment"
	}
	return out
}

func whoisRange(network string, r *ownership.Range) query.WhoisRange {
	out := query.WhoisRange{
		Network: network, Workload: r.Owner.Workload, Instance: r.Owner.Instance, Open: r.Open, Exporter: r.Exporter,
		From: time.Unix(0, r.From).UTC(), To: time.Unix(0, r.To).UTC(), ClockErrorMs: r.ClockError.Milliseconds(), BadClock: r.BadClock,
	}
	if r.PortTo != 0 {
		out.Ports = fmt.Sprintf("%d-%d", r.PortFrom, r.PortTo)
	}
	if r.Released {
		out.Reason = "released"
	}
	if r.Blurred {
		out.Reason = "released: it stands for others too since, or its end was noticed minutes later"
	}
	return out
}
