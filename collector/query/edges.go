package query

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"tributary/collector/schema"
)

// Edge is what one workload asked of another on one port, in the columns of the view edges.
type Edge struct {
	ClientWorkload   string            `json:"client_workload"`
	ClientWhy        string            `json:"client_why"`
	ServerWorkload   string            `json:"server_workload"`
	ServerWhy        string            `json:"server_why"`
	ServerPort       uint16            `json:"server_port"`
	Connections      uint64            `json:"connections"` // opened, failed ones among them
	Closed           uint64            `json:"closed"`
	Resets           uint64            `json:"resets"`
	Open             uint64            `json:"open"`       // connections that live at the end of the window
	Unanswered       uint64            `json:"unanswered"` // attempts that still wait then
	Failures         uint64            `json:"failures"`
	FailuresByReason map[string]uint64 `json:"failures_by_reason"`
	BytesToServer    uint64            `json:"bytes_to_server"`
	BytesToClient    uint64            `json:"bytes_to_client"`
	RetransSegs      uint64            `json:"retrans_segs"`
	FirstSeen        string            `json:"first_seen"`
	LastSeen         string            `json:"last_seen"`
	RttUsP50         uint64            `json:"rtt_us_p50"`
	RttUsP95         uint64            `json:"rtt_us_p95"`
	RttUsP99         uint64            `json:"rtt_us_p99"`
	ConnectUsP50     uint64            `json:"connect_us_p50"`
	ConnectUsP95     uint64            `json:"connect_us_p95"`
	ConnectUsP99     uint64            `json:"connect_us_p99"`
	ClientOnly       uint64            `json:"client_only"` // of the connections, by who recorded them
	ServerOnly       uint64            `json:"server_only"`
	Both             uint64            `json:"both"`
}

// edgeOf names an edge.
type edgeOf struct {
	client, clientWhy, server, serverWhy string
	port                                 uint16
}

func (e *Edge) key() edgeOf {
	return edgeOf{e.ClientWorkload, e.ClientWhy, e.ServerWorkload, e.ServerWhy, e.ServerPort}
}

const edgeGroup = "client_workload, client_why, server_workload, server_why, server_port"

// edgeFilter limits edges in SQL; the zero value takes all.
type edgeFilter struct {
	condition  string // on the columns of schema.MapKey, or if it is of releases, of schema.EdgeKey
	params     map[string]string
	ofReleases bool
}

// ofWorkload takes the edges of a workload, as client or as server.
func ofWorkload(name string) edgeFilter {
	return edgeFilter{condition: "client_workload = {workload:String} OR server_workload = {workload:String}", params: map[string]string{"workload": name}}
}

// edges returns the edges of the records that ended in the window.
func (c *Client) edges(ctx context.Context, w window, now time.Time, f edgeFilter) ([]Edge, error) {
	covered, err := c.coverage(ctx, w, now)
	if err != nil {
		return nil, err
	}
	tiers := plan(w, covered.minutes, covered.hours, now)
	lively, known := livesFrom(tiers, endOf(w, now))
	if !known {
		lively = time.Time{}
	}
	statements := c.parts(covered, tiers, lively, f)
	if known || !covered.writtenSince(endOf(w, now).Add(-aliveWithin)) {
		return c.askParts(ctx, statements, f)
	}
	var open []partRow
	var openErr error
	var both sync.WaitGroup
	both.Go(func() { open, openErr = c.open(ctx, w, now, f) })
	found, err := c.askParts(ctx, statements, f)
	both.Wait()
	if err := errors.Join(err, openErr); err != nil {
		return nil, err
	}
	index := make(map[edgeOf]*Edge, len(found))
	for i := range found {
		index[found[i].key()] = &found[i]
	}
	for _, r := range open {
		if e := index[r.key()]; e != nil { // an edge without a record in the window is none of the window
			e.Open, e.Unanswered = r.Open, r.Unanswered
		}
	}
	return found, nil
}

// endOf is the moment at which the window ends, or now.
func endOf(w window, now time.Time) time.Time {
	if !w.until.IsZero() && w.until.Before(now) {
		return w.until
	}
	return now
}

// aliveWithin is longer than the time between two records of a connection that lives.
const aliveWithin = 65 * time.Second

// open counts the connections that live at the end of the window, from single records.
func (c *Client) open(ctx context.Context, w window, now time.Time, f edgeFilter) ([]partRow, error) {
	at := endOf(w, now)
	return c.part(ctx, schema.MapOf(c.database(), sqlTime(at.Add(-aliveWithin), ""), sqlTime(at.Add(time.Nanosecond), ""), beginning, f.condition), f.params)
}

// around returns the edges within depth steps of a workload, in either direction.
func around(edges []Edge, workload string, depth int) []Edge {
	near := map[string]bool{workload: true}
	var out []Edge
	taken := map[int]bool{}
	for range depth {
		next := maps.Clone(near)
		for i, e := range edges {
			if (near[e.ClientWorkload] && e.ClientWorkload != "") || (near[e.ServerWorkload] && e.ServerWorkload != "") {
				if !taken[i] {
					taken[i] = true
					out = append(out, e)
				}
				next[e.ClientWorkload], next[e.ServerWorkload] = true, true
			}
		}
		near = next
	}
	return out
}

// total adds the edges up where only one number is wanted.
func total(edges []Edge, of func(*Edge) uint64) (sum uint64) {
	for i := range edges {
		sum += of(&edges[i])
	}
	return sum
}
