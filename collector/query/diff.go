package query

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// DiffOptions name two maps: of two windows, or of two releases in one window.
type DiffOptions struct {
	A, B         string // FROM..TO, each as ParseTime reads it; or release:NAME
	Since, Until string // with releases: the window of both
	Workload     string // only the edges of this one
	FailOn       []string
	Format       Format
}

// Change is an edge that is not what it was. A and B are nil where the edge is not there.
type Change struct {
	Change string   `json:"change"` // new, gone or degraded
	Client string   `json:"client"` // as screens show it
	Server string   `json:"server"`
	Port   uint16   `json:"server_port"`
	Why    []string `json:"why,omitempty"` // of degraded: in what
	A      *Edge    `json:"a,omitempty"`
	B      *Edge    `json:"b,omitempty"`
}

var changes = []string{"new", "gone", "degraded"}

// Diff writes what differs between two maps. With --fail-on it returns a Found where one of those changes is there.
func Diff(ctx context.Context, c *Client, o DiffOptions, now Clock, w, told io.Writer) error {
	if o.FailOn != nil && len(o.FailOn) == 0 {
		return fmt.Errorf("--fail-on is empty: %s", strings.Join(changes, ", "))
	}
	for _, kind := range o.FailOn {
		if !slices.Contains(changes, kind) {
			return fmt.Errorf("--fail-on %q is unknown: %s", kind, strings.Join(changes, ", "))
		}
	}
	var sides [2]map[edgeOf]*Edge
	for i, text := range []string{o.A, o.B} {
		span, filter, err := o.side(text, now())
		if err != nil {
			return err
		}
		edges, err := c.edges(ctx, span, now(), filter)
		if err != nil {
			return err
		}
		if err := c.checkRelease(ctx, text, edges); err != nil && len(o.FailOn) > 0 {
			return err
		} else if err != nil {
			fmt.Fprintln(told, err)
		}
		c.tell(ctx, span, now(), &labelled{told, string(rune('A'+i)) + ": "})
		sides[i] = byName(edges)
	}
	if o.Workload != "" && len(sides[0])+len(sides[1]) == 0 {
		if err := c.checkWorkload(ctx, o.Workload); err != nil {
			return err
		}
	}
	found := compare(sides[0], sides[1])
	if err := writeChanges(found, o.Format, w); err != nil {
		return err
	}
	counted := map[string]uint64{}
	for _, f := range found {
		if slices.Contains(o.FailOn, f.Change) {
			counted[f.Change]++
		}
	}
	if len(counted) > 0 {
		return &Found{"edges that --fail-on names: " + counts(counted)}
	}
	return nil
}

// labelled is a writer of whole lines that puts something before each.
type labelled struct {
	io.Writer
	label string
}

// Write implements io.Writer.
func (l *labelled) Write(line []byte) (int, error) {
	if _, err := io.WriteString(l.Writer, l.label+string(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// side reads A or B.
func (o DiffOptions) side(text string, now time.Time) (window, edgeFilter, error) {
	var filter edgeFilter
	if o.Workload != "" {
		filter = ofWorkload(o.Workload)
	}
	if release, ok := strings.CutPrefix(text, "release:"); ok {
		if release == "" {
			return window{}, filter, errors.New("release: has no name behind it")
		}
		span, err := parseWindow(o.Since, o.Until, now)
		condition := "client_release = {release:String} OR server_release = {release:String}"
		params := map[string]string{"release": release}
		if o.Workload != "" {
			condition = "(client_workload = {workload:String} AND client_release = {release:String}) OR (server_workload = {workload:String} AND server_release = {release:String})"
			params["workload"] = o.Workload
		}
		return span, edgeFilter{condition: condition, params: params, ofReleases: true}, err
	}
	since, until, ok := strings.Cut(text, "..")
	if !ok || since == "" || until == "" {
		return window{}, filter, fmt.Errorf("%q is neither a window (-2h..-1h) nor a release (release:2026-11-20.3)", text)
	}
	if o.Since != "" || o.Until != "" {
		return window{}, filter, errors.New("--since and --until go with releases: these windows have their own")
	}
	span, err := parseWindow(since, until, now)
	switch {
	case errors.Is(err, errBackwards):
		err = fmt.Errorf("the window %s ends before it begins", text)
	case errors.Is(err, errFuture):
		err = fmt.Errorf("the window %s begins in the future: nothing has been recorded there yet", text)
	case err == nil && !span.since.Before(span.until):
		err = fmt.Errorf("the window %s is empty: everything would be new, or gone", text)
	}
	return span, filter, err
}

// checkRelease returns an error if a side is a release that is of no connection, and so most likely written wrongly: everything would be new, or gone, and
// --fail-on would not notice.
func (c *Client) checkRelease(ctx context.Context, side string, edges []Edge) error {
	release, ok := strings.CutPrefix(side, "release:")
	if !ok || len(edges) > 0 {
		return nil
	}
	type row struct {
		Release string `json:"release"`
	}
	rows, err := collect[row](ctx, c, fmt.Sprintf("SELECT DISTINCT arrayJoin(releases) AS release FROM %s.workloads LIMIT %d", c.database(), compared), nil)
	if err != nil {
		return err
	}
	var names []string
	for _, r := range rows {
		if r.Release == release {
			return nil
		}
		names = append(names, r.Release)
	}
	near := nearest(release, names)
	if len(near) == 0 {
		return fmt.Errorf("no release is called %q; none has been seen yet", release)
	}
	return fmt.Errorf("no release is called %q; did you mean %s?", release, strings.Join(near, " or "))
}

// byName joins the edges whose ends look the same but for why they have no name: that is no difference.
func byName(edges []Edge) map[edgeOf]*Edge {
	out := map[edgeOf]*Edge{}
	for i := range edges {
		e := edges[i]
		k := e.key()
		for _, why := range []*string{&k.clientWhy, &k.serverWhy} {
			if *why != "named" && *why != "external" {
				*why = "not known"
			}
		}
		if have := out[k]; have != nil {
			have.add(&e)
		} else {
			e.FailuresByReason = maps.Clone(e.FailuresByReason)
			out[k] = &e
		}
	}
	return out
}

// add makes one edge of two; of the times the worse is kept, because quantiles do not add up.
func (e *Edge) add(other *Edge) {
	e.Connections += other.Connections
	e.Closed += other.Closed
	e.Resets += other.Resets
	e.Open += other.Open
	e.Unanswered += other.Unanswered
	e.Failures += other.Failures
	for reason, n := range other.FailuresByReason {
		e.FailuresByReason[reason] += n
	}
	e.BytesToServer += other.BytesToServer
	e.BytesToClient += other.BytesToClient
	e.RetransSegs += other.RetransSegs
	e.RttUsP50, e.RttUsP95, e.RttUsP99 = max(e.RttUsP50, other.RttUsP50), max(e.RttUsP95, other.RttUsP95), max(e.RttUsP99, other.RttUsP99)
	e.ConnectUsP50, e.ConnectUsP95, e.ConnectUsP99 = max(e.ConnectUsP50, other.ConnectUsP50), max(e.ConnectUsP95, other.ConnectUsP95), max(e.ConnectUsP99, other.ConnectUsP99)
	e.FirstSeen, e.LastSeen = min(e.FirstSeen, other.FirstSeen), max(e.LastSeen, other.LastSeen)
	e.ClientOnly += other.ClientOnly
	e.ServerOnly += other.ServerOnly
	e.Both += other.Both
}

func compare(a, b map[edgeOf]*Edge) []Change {
	var out []Change
	for k, e := range b {
		change := Change{Client: endName(k.client, k.clientWhy), Server: endName(k.server, k.serverWhy), Port: k.port, A: a[k], B: e}
		if change.A == nil {
			change.Change = "new"
		} else if change.Why = worse(a[k], e); len(change.Why) > 0 {
			change.Change = "degraded"
		} else {
			continue
		}
		out = append(out, change)
	}
	for k, e := range a {
		if b[k] == nil {
			out = append(out, Change{Change: "gone", Client: endName(k.client, k.clientWhy), Server: endName(k.server, k.serverWhy), Port: k.port, A: e})
		}
	}
	slices.SortFunc(out, func(x, y Change) int {
		return cmp.Or(cmp.Compare(slices.Index(changes, x.Change), slices.Index(changes, y.Change)), strings.Compare(x.Client, y.Client),
			strings.Compare(x.Server, y.Server), cmp.Compare(x.Port, y.Port))
	})
	return out
}

// An edge is degraded where failures, or resets, are at least 3 and a share 1 % larger than it was, or a 95 % time is twice what it was
// and 1 ms more.
const (
	worseCount = 3
	worseShare = 0.01
	worseTimes = 2
	worseUs    = 1000
)

func worse(a, b *Edge) []string {
	var why []string
	for _, m := range []struct {
		name         string
		a, b, of, to uint64
	}{{"failures", a.Failures, b.Failures, a.Connections, b.Connections}, {"resets", a.Resets, b.Resets, a.Connections, b.Connections}} {
		before, after := share(m.a, m.of), share(m.b, m.to)
		if m.b >= worseCount && after > before+worseShare {
			why = append(why, fmt.Sprintf("%s %.1f %% → %.1f %%", m.name, 100*before, 100*after))
		}
	}
	for _, m := range []struct {
		name string
		a, b uint64
	}{{"rtt p95", a.RttUsP95, b.RttUsP95}, {"connect p95", a.ConnectUsP95, b.ConnectUsP95}} {
		if m.a > 0 && m.b >= worseTimes*m.a && m.b >= m.a+worseUs {
			why = append(why, fmt.Sprintf("%s %s → %s", m.name, microsText(m.a), microsText(m.b)))
		}
	}
	return why
}

func share(n, of uint64) float64 {
	if n == 0 {
		return 0
	}
	return float64(n) / float64(max(n, of))
}

func writeChanges(found []Change, f Format, w io.Writer) error {
	if f == FormatJSON {
		return writeJSON(found, w)
	}
	if len(found) == 0 {
		return write(w, "no edge is new, gone or degraded\n")
	}
	t := newTable(w, []string{"CHANGE", "CLIENT", "SERVER", "PORT", "CONNECTIONS A", "CONNECTIONS B", "IN WHAT"}, []bool{false, false, false, true, true, true, false})
	number := func(e *Edge) string {
		if e == nil {
			return "-"
		}
		return fmt.Sprint(e.Connections)
	}
	for _, c := range found {
		t.row(c.Change, c.Client, c.Server, fmt.Sprint(c.Port), number(c.A), number(c.B), strings.Join(c.Why, ", "))
	}
	return t.flush()
}
