package query

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// WhoisPath is where the collector's API answers whois: GET WhoisPath?address=…&at=RFC3339[&port=…][&network=…] with a
// WhoisAnswer. Without a port only claims of the whole address answer.
const WhoisPath = "/v1/whois"

// WhoisLately is how long ago is asked for where no time is given: claims are verified once a second, so nothing is known of this very moment.
const WhoisLately = 5 * time.Second

// WhoisAnswer is what is known about an address at a time.
type WhoisAnswer struct {
	Address string       `json:"address"`
	At      time.Time    `json:"at"`
	Source  string       `json:"source"` // ownership: the collector's table; flows: the record of whose sockets had the address
	Answers []WhoisOwner `json:"answers"`
	Ranges  []WhoisRange `json:"ranges"` // who else had it, around that time, oldest first
}

// WhoisOwner is the answer in one network. Without a workload, Why says why there is none.
type WhoisOwner struct {
	Network  string `json:"network"`
	Workload string `json:"workload"`
	Instance string `json:"instance"`
	Zone     string `json:"zone,omitempty"`
	Region   string `json:"region,omitempty"`
	Release  string `json:"release,omitempty"`
	Evidence string `json:"evidence"`
	Why      string `json:"why"`
}

// WhoisRange is a stretch of time in which an instance is known to have had the address.
type WhoisRange struct {
	Network  string    `json:"network"`
	Workload string    `json:"workload"`
	Instance string    `json:"instance"`
	Ports    string    `json:"ports,omitempty"` // "" means all
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Open     bool      `json:"open"` // To is only the time up to which it was verified
	Exporter string    `json:"exporter,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why a closed range ended
	// ClockErrorMs is by how much the exporter's clock, and so From and To, may be off; 0: as usual. BadClock: too much to name anybody.
	ClockErrorMs int64 `json:"clock_error_ms,omitempty"`
	BadClock     bool  `json:"bad_clock,omitempty"`
}

// WhoisOptions is the question.
type WhoisOptions struct {
	Address, At, Network string // At as ParseTime reads it, "" means WhoisLately ago; Network "" means all
	Port                 uint16 // for addresses that are shared by port; 0: none
	API                  string // base URL of the collector's API; "" asks the store only
	Format               Format
}

// Whois writes who owned an address at a time: from the collector's table, or, where the collector does not answer or knows nothing,
// from the flows of sockets that had the address.
func Whois(ctx context.Context, c *Client, o WhoisOptions, now Clock, w io.Writer) error {
	addr, err := netip.ParseAddr(o.Address)
	if err != nil {
		return fmt.Errorf("%q is no IP address", o.Address)
	}
	at := now().Add(-WhoisLately)
	if o.At != "" {
		if at, err = ParseTime(o.At, now()); err != nil {
			return err
		}
	}
	switch {
	case at.After(now()):
		return errAtFuture
	case at.Unix() < 0:
		return errors.New("--at is before 1970")
	}
	answer, apiErr := askAPI(ctx, o.API, addr, at, o)
	if apiErr != nil || !answer.knows() {
		fromFlows, err := c.whoisFromFlows(ctx, addr, at, o.Network)
		switch {
		case err != nil && apiErr != nil:
			return errors.Join(apiErr, err)
		case err == nil && (apiErr != nil || len(fromFlows.Ranges) > 0):
			answer = fromFlows
		}
	}
	return WriteWhois(answer, o.Format, w)
}

func (a *WhoisAnswer) knows() bool {
	for _, o := range a.Answers {
		if o.Workload != "" {
			return true
		}
	}
	return len(a.Ranges) > 0
}

// maxAnswerBytes bounds what the API may say.
const maxAnswerBytes = 8 << 20

func askAPI(ctx context.Context, api string, addr netip.Addr, at time.Time, o WhoisOptions) (*WhoisAnswer, error) {
	if api == "" {
		return nil, errors.New("the collector's API is not configured")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	q := url.Values{"address": {addr.String()}, "at": {at.UTC().Format(time.RFC3339Nano)}}
	if o.Network != "" {
		q.Set("network", o.Network)
	}
	if o.Port != 0 {
		q.Set("port", strconv.Itoa(int(o.Port)))
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(api, "/")+WhoisPath+"?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask the collector: %w", err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("the collector at %s does not answer: %w", api, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes))
	if err != nil || answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the collector at %s answers %s: %.300s", api, answer.Status, strings.TrimSpace(string(body)))
	}
	out := &WhoisAnswer{}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, fmt.Errorf("understand the collector's answer: %w", err)
	}
	return out, nil
}

// whoisAround is how far before and after the time records are looked for.
const whoisAround = 15 * time.Minute

// whoisSelect reads flows_raw as it is: all versions of a record say the same of their own end, and single versions are found by the index of addresses.
const whoisSelect = `SELECT network, local_workload AS workload, local_instance AS instance,
    toUnixTimestamp64Nano(min(interval_start_ns)) AS from_ns, toUnixTimestamp64Nano(max(end_time_ns)) AS to_ns
FROM %s.flows_raw
WHERE local_addr = {address:IPv6} AND local_workload != '' AND ({network:String} = '' OR network = {network:String})
    AND end_time_ns >= fromUnixTimestamp64Nano(%d) AND end_time_ns <= fromUnixTimestamp64Nano(%d)
GROUP BY network, workload, instance
ORDER BY network, from_ns`

type usedRange struct {
	Network  string `json:"network"`
	Workload string `json:"workload"`
	Instance string `json:"instance"`
	FromNs   int64  `json:"from_ns"`
	ToNs     int64  `json:"to_ns"`
}

// whoisFromFlows names who used the address around the time. It names an owner at the time only where exactly one workload's use
// brackets it: between two uses anybody may have had the address.
func (c *Client) whoisFromFlows(ctx context.Context, addr netip.Addr, at time.Time, network string) (*WhoisAnswer, error) {
	statement := fmt.Sprintf(whoisSelect, c.database(), at.Add(-whoisAround).UnixNano(), at.Add(whoisAround).UnixNano())
	params := map[string]string{"address": netip.AddrFrom16(addr.As16()).String(), "network": network}
	used, err := collect[usedRange](ctx, c, statement, params)
	if err != nil {
		return nil, err
	}
	out := &WhoisAnswer{Address: addr.String(), At: at, Source: "flows"}
	owners := map[string][]WhoisOwner{}
	for _, u := range used {
		r := WhoisRange{Network: u.Network, Workload: u.Workload, Instance: u.Instance, From: time.Unix(0, u.FromNs).UTC(), To: time.Unix(0, u.ToNs).UTC()}
		out.Ranges = append(out.Ranges, r)
		if owners[u.Network] == nil {
			owners[u.Network] = []WhoisOwner{}
		}
		if !at.Before(r.From) && !at.After(r.To) {
			owners[u.Network] = append(owners[u.Network], WhoisOwner{Network: u.Network, Workload: u.Workload, Instance: u.Instance, Evidence: "socket", Why: "named"})
		}
	}
	for _, u := range used {
		found, ok := owners[u.Network]
		if !ok {
			continue
		}
		delete(owners, u.Network)
		switch len(found) {
		case 1:
			out.Answers = append(out.Answers, found[0])
		case 0:
			out.Answers = append(out.Answers, WhoisOwner{Network: u.Network, Evidence: "none", Why: "gap"})
		default:
			out.Answers = append(out.Answers, WhoisOwner{Network: u.Network, Evidence: "none", Why: "conflict"})
		}
	}
	return out, nil
}

// WriteWhois writes an answer as a table or as one JSON object.
func WriteWhois(a *WhoisAnswer, f Format, w io.Writer) error {
	if f == FormatJSON {
		if err := json.NewEncoder(w).Encode(a); err != nil {
			return fmt.Errorf("write the answer: %w", err)
		}
		return nil
	}
	if len(a.Answers) == 0 {
		a.Answers = []WhoisOwner{{Why: "no_evidence"}}
	}
	for _, o := range a.Answers {
		where := ""
		if o.Network != "" && o.Network != "default" {
			where = " in network " + o.Network
		}
		line := fmt.Sprintf("%s%s at %s: %s", a.Address, where, a.At.UTC().Format(time.RFC3339Nano), endName(o.Workload, o.Why))
		if o.Instance != "" {
			line += " (" + o.Instance + ")"
		}
		if o.Workload != "" && o.Evidence != "" {
			line += ", known by " + o.Evidence
		}
		if _, err := fmt.Fprintln(w, printable(line)); err != nil {
			return fmt.Errorf("write the answer: %w", err)
		}
	}
	if len(a.Ranges) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	t := newTable(w, []string{"FROM", "TO", "WORKLOAD", "INSTANCE", "NETWORK", "PORTS", "EXPORTER", "ENDED"}, make([]bool, 8))
	for _, r := range a.Ranges {
		ended := r.Reason
		if r.Open {
			ended = "(open; verified up to then)"
		}
		switch {
		case r.BadClock:
			ended += fmt.Sprintf(" (clock off by %d ms: names nobody)", r.ClockErrorMs)
		case r.ClockErrorMs != 0:
			ended += fmt.Sprintf(" (± %d ms)", r.ClockErrorMs)
		}
		t.row(r.From.UTC().Format(time.RFC3339Nano), r.To.UTC().Format(time.RFC3339Nano), r.Workload, r.Instance, r.Network, r.Ports, r.Exporter, ended)
	}
	return t.flush()
}
