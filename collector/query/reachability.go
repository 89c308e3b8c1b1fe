package query

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"tributary/collector/reachability"
	"tributary/collector/schema"
)

// ReachabilityOptions choose paths.
type ReachabilityOptions struct {
	Since, Until, Workload string
	All                    bool // also those that work, and those nobody tries
	Format                 Format
}

// PathState says how a path does.
type PathState string

// The states.
const (
	PathWorks       PathState = "works"
	PathRegression  PathState = "regression" // worked, and fails
	PathLostSight   PathState = "lost_sight" // was a regression or worked when its client's exporters were heard last
	PathFails       PathState = "fails"      // fails, and is no regression (yet)
	PathNeverWorked PathState = "never_worked"
	PathNobodyTries PathState = "nobody_tries"
	PathClientGone  PathState = "client_gone"
	PathReleased    PathState = "released" // the server was taken out of service on purpose
)

// PathReport is one path of the ledger, and its last regression.
type PathReport struct {
	State            PathState         `json:"state"`
	ClientWorkload   string            `json:"client_workload"`
	ServerWorkload   string            `json:"server_workload"`
	ServerPort       uint16            `json:"server_port"`
	Attempts         uint64            `json:"attempts"`
	Successes        uint64            `json:"successes"`
	Failures         uint64            `json:"failures"`
	FailuresByCause  map[string]uint64 `json:"failures_by_cause"`
	UsualRate        float64           `json:"usual_rate"` // attempts a minute, in minutes that had any
	LastSuccess      string            `json:"last_success"`
	LastFailure      string            `json:"last_failure"`
	Regression       string            `json:"regression"` // its id
	Verdict          string            `json:"verdict"`
	VerdictAt        string            `json:"verdict_at"` // later than opened_at: it was corrected then
	Explanation      string            `json:"explanation"`
	Evidence         json.RawMessage   `json:"evidence"` // the first failing flows
	CauseOf          string            `json:"cause_of"`
	BrokeAt          string            `json:"broke_at"`
	OpenedAt         string            `json:"opened_at"`
	ClosedAt         string            `json:"closed_at"` // "" while it lasts
	ClosedWhy        string            `json:"closed_why"`
	Silenced         bool              `json:"silenced"`
	open, lostSight  bool
	lastTry, success time.Time
}

const pathsSelect = `SELECT client_workload, server_workload, server_port, p.attempts, p.successes, p.failures, p.failures_by_cause, p.usual_rate, p.last_success AS last_success, p.last_failure,
    r.id AS regression, r.verdict AS verdict, r.verdict_at AS verdict_at, r.explanation AS explanation, r.evidence AS evidence, r.cause_of AS cause_of,
    r.broke_at AS broke_at, r.opened_at AS opened_at, r.closed_at AS closed_at, r.closed_why AS closed_why, r.lost_sight AS lost_sight
FROM
(
    SELECT client_workload, server_workload, server_port, sum(l.attempts) AS attempts, sum(l.successes) AS successes, sum(l.failures) AS failures,
        sumMap(l.failures_by_cause) AS failures_by_cause, round(attempts / greatest(1, uniqIf(minute, l.attempts > 0)), 3) AS usual_rate,
        max(l.last_success) AS last_success, max(l.last_failure) AS last_failure
    FROM $database.reachability AS l
    WHERE $window
    GROUP BY client_workload, server_workload, server_port
) AS p
FULL JOIN
(
    SELECT *
    FROM $database.regressions
    WHERE $opened
    ORDER BY opened_at DESC
    LIMIT 1 BY client_workload, server_workload, server_port
) AS r USING (client_workload, server_workload, server_port)`

// Reachability writes the paths of a time: by default those that fail and those that were regressions.
func Reachability(ctx context.Context, c *Client, o ReachabilityOptions, now Clock, w io.Writer) error {
	paths, err := c.paths(ctx, o, now())
	if err != nil {
		return err
	}
	if o.Workload != "" && len(paths) == 0 {
		if err := c.checkWorkload(ctx, o.Workload); err != nil {
			return err
		}
	}
	if !o.All {
		paths = slices.DeleteFunc(paths, func(p *PathReport) bool {
			return p.Regression == "" && (p.State == PathWorks || p.State == PathNobodyTries || p.State == PathClientGone)
		})
	}
	if o.Format == FormatJSON {
		return writeJSON(paths, w)
	}
	return writePaths(paths, o, w)
}

type pathRow struct {
	*PathReport
	LostSight bool   `json:"lost_sight"`
	Evidence  string `json:"evidence"`
}

func (c *Client) paths(ctx context.Context, o ReachabilityOptions, now time.Time) ([]*PathReport, error) {
	span, err := parseWindow(o.Since, o.Until, now)
	if err != nil {
		return nil, err
	}
	opened := "(open OR " + window{span.since, time.Time{}}.condition("closed_at") + ") AND " + window{time.Time{}, span.until}.condition("opened_at")
	text := strings.NewReplacer("$database", c.database(), "$window", span.condition("minute"), "$opened", opened).Replace(
		"SELECT * FROM (" + pathsSelect + ") WHERE {workload:String} IN ('', client_workload, server_workload)")
	rows, err := collect[pathRow](ctx, c, text, map[string]string{"workload": o.Workload})
	if err != nil {
		return nil, err
	}
	signs, err := c.signs(ctx, now)
	if err != nil {
		return nil, err
	}
	silences, err := silencesIn(ctx, c)
	if err != nil {
		return nil, err
	}
	paths := make([]*PathReport, len(rows))
	for i, r := range rows {
		p := r.PathReport
		p.lostSight, p.Evidence = r.LostSight, json.RawMessage(cmp.Or(r.Evidence, "[]"))
		path := reachability.Path{Client: p.ClientWorkload, Server: p.ServerWorkload, Port: p.ServerPort}
		p.Silenced = slices.ContainsFunc(silences, func(s reachability.Silence) bool { return s.Covers(path) })
		p.settle(signs[p.ClientWorkload], now)
		paths[i] = p
	}
	slices.SortFunc(paths, func(a, b *PathReport) int {
		return cmp.Or(a.rank()-b.rank(), cmp.Compare(a.ClientWorkload, b.ClientWorkload), cmp.Compare(a.ServerWorkload, b.ServerWorkload), cmp.Compare(a.ServerPort, b.ServerPort))
	})
	return paths, nil
}

// sign is what was last heard of a workload: a record of its own, and a word of an exporter on its machines.
type sign struct {
	Workload string `json:"workload"`
	Recorded int64  `json:"recorded"`
	Heard    int64  `json:"heard"`
}

// signs asks for the workloads of the last day.
func (c *Client) signs(ctx context.Context, now time.Time) (map[string]sign, error) {
	text := fmt.Sprintf(`SELECT workload, toUnixTimestamp(max(r.latest)) AS recorded, toUnixTimestamp(max(h.heard)) AS heard
FROM (SELECT workload, host, max(minute) AS latest FROM $database.recorded_1m WHERE minute >= toDateTime(%[1]d, 'UTC') GROUP BY workload, host) AS r
LEFT JOIN (SELECT host, max(read_time_ns) AS heard FROM $database.exporter_health WHERE minute >= toDateTime(%[1]d, 'UTC') GROUP BY host) AS h USING (host)
GROUP BY workload`, now.Add(-24*time.Hour).Unix())
	rows, err := collect[sign](ctx, c, strings.ReplaceAll(text, "$database", c.database()), nil)
	if err != nil {
		return nil, err
	}
	out := map[string]sign{}
	for _, r := range rows {
		out[r.Workload] = r
	}
	return out, nil
}

// quietFor is how long nobody has to try a path until that is what is said of it.
const quietFor = 15 * time.Minute

// settle makes the state out of what is known.
func (p *PathReport) settle(s sign, now time.Time) {
	p.success, p.lastTry = p.moment(&p.LastSuccess), p.moment(&p.LastFailure)
	failed := p.lastTry
	if p.success.After(p.lastTry) {
		p.lastTry = p.success
	}
	p.moment(&p.BrokeAt)
	p.moment(&p.OpenedAt)
	p.moment(&p.VerdictAt)
	p.open = p.Regression != "" && p.moment(&p.ClosedAt).IsZero()
	silent := now.Sub(time.Unix(s.Heard, 0)) > silentAfter
	switch {
	case (p.open && (p.lostSight || silent)) || (!p.lastTry.IsZero() && silent):
		p.State = PathLostSight
	case p.open:
		p.State = PathRegression
	case p.ClosedWhy == "released" && !p.success.After(failed):
		p.State = PathReleased
	case now.Sub(p.lastTry) > quietFor && now.Sub(time.Unix(s.Recorded, 0)) > quietFor:
		p.State = PathClientGone
	case now.Sub(p.lastTry) > quietFor:
		p.State = PathNobodyTries
	case p.Successes == 0:
		p.State = PathNeverWorked
	case failed.After(p.success):
		p.State = PathFails
	default:
		p.State = PathWorks
	}
}

// moment reads a time and makes "" of 1970.
func (p *PathReport) moment(text *string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, *text)
	if err != nil || t.Unix() <= 0 {
		*text = ""
		return time.Time{}
	}
	return t
}

// rank puts first what needs somebody.
func (p *PathReport) rank() int {
	order := []PathState{PathRegression, PathLostSight, PathFails, PathNeverWorked, PathReleased, PathWorks, PathNobodyTries, PathClientGone}
	return slices.Index(order, p.State)
}

func writePaths(paths []*PathReport, o ReachabilityOptions, w io.Writer) error {
	if len(paths) == 0 {
		return write(w, "every path that is tried works\n")
	}
	t := newTable(w, []string{"STATE", "CLIENT", "SERVER", "PORT", "VERDICT", "BROKE AT", "CLOSED", "LAST SUCCESS", "ATTEMPTS", "FAILURES", "CAUSES"},
		[]bool{false, false, false, true, false, false, false, false, true, true, false})
	for _, p := range paths {
		state := string(p.State)
		if p.Silenced {
			state += " (silenced)"
		}
		ended := p.ClosedAt
		if p.ClosedWhy != "" {
			ended += " " + p.ClosedWhy
		}
		t.row(state, p.ClientWorkload, p.ServerWorkload, strconv.Itoa(int(p.ServerPort)), p.Verdict, p.BrokeAt, ended, p.LastSuccess,
			strconv.FormatUint(p.Attempts, 10), strconv.FormatUint(p.Failures, 10), counts(p.FailuresByCause))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, p := range paths {
		if p.State == PathRegression {
			if err := write(w, fmt.Sprintf("\n%s → %s:%d: %s\n", printable(p.ClientWorkload), printable(p.ServerWorkload), p.ServerPort, printable(p.Explanation))); err != nil {
				return err
			}
		}
	}
	return nil
}

// SilenceOptions is a path that nobody is to be told of.
type SilenceOptions struct {
	Client, Server, For, Comment string // Server as name or name:port; * stands for anything
}

const maxSilence = 365 * 24 * time.Hour

// AddSilence writes a silence and says so.
func AddSilence(ctx context.Context, store *schema.Client, o SilenceOptions, now Clock, w io.Writer) error {
	length, err := duration(o.For)
	if err != nil || length <= 0 || length > maxSilence {
		return fmt.Errorf("--for takes how long, up to a year: 2h, 7d; not %q", o.For)
	}
	server, port := o.Server, uint64(0)
	if i := strings.LastIndexByte(o.Server, ':'); i >= 0 {
		if port, err = strconv.ParseUint(o.Server[i+1:], 10, 16); err != nil {
			return fmt.Errorf("%q is no port", o.Server[i+1:])
		}
		server = o.Server[:i]
	}
	if o.Client == "" || server == "" {
		return errors.New("a silence needs a client and a server; * stands for any")
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	id, until := hex.EncodeToString(b[:]), now().Add(length).UTC().Truncate(time.Second)
	err = writeSilence(ctx, store, map[string]string{
		"id": id, "client": o.Client, "server": server, "port": strconv.FormatUint(port, 10), "until": strconv.FormatInt(until.Unix(), 10), "comment": o.Comment,
	})
	if err != nil {
		return err
	}
	return write(w, fmt.Sprintf("%s: nobody is told of %s → %s until %s\n", id, printable(o.Client), printable(o.Server), until.Format(time.RFC3339)))
}

func writeSilence(ctx context.Context, store *schema.Client, params map[string]string) error {
	err := store.Exec(ctx, schema.Statement{Text: "INSERT INTO " + store.Server().Database + ".reachability_silences " +
		"SELECT {id:String}, {client:String}, {server:String}, {port:UInt16}, toDateTime({until:Int64}, 'UTC'), {comment:String}, now64(3, 'UTC')", Params: params})
	if err != nil {
		return fmt.Errorf("write the silence: %w", err)
	}
	return nil
}

// duration reads 2h or 7d.
func duration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}

func silencesIn(ctx context.Context, c *Client) ([]reachability.Silence, error) {
	return collect[reachability.Silence](ctx, c, "SELECT id, client_workload, server_workload, server_port, until, comment FROM "+c.database()+
		".reachability_silences FINAL WHERE until > now() ORDER BY until, id", nil)
}

// Silences lists those in force.
func Silences(ctx context.Context, c *Client, f Format, w io.Writer) error {
	rows, err := silencesIn(ctx, c)
	if err != nil {
		return err
	}
	if f == FormatJSON {
		return writeJSON(rows, w)
	}
	t := newTable(w, []string{"ID", "CLIENT", "SERVER", "PORT", "UNTIL", "COMMENT"}, make([]bool, 6))
	for _, r := range rows {
		port := "any"
		if r.Port != 0 {
			port = strconv.Itoa(int(r.Port))
		}
		t.row(r.ID, r.Client, r.Server, port, r.Until, r.Comment)
	}
	return t.flush()
}

// EndSilence ends a silence before its time.
func EndSilence(ctx context.Context, c *Client, store *schema.Client, id string, now Clock, w io.Writer) error {
	rows, err := silencesIn(ctx, c)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.ID == id {
			if err := writeSilence(ctx, store, map[string]string{
				"id": id, "client": r.Client, "server": r.Server, "port": strconv.Itoa(int(r.Port)), "until": strconv.FormatInt(now().Unix()-1, 10), "comment": r.Comment,
			}); err != nil {
				return err
			}
			return write(w, id+" is over\n")
		}
	}
	return fmt.Errorf("no silence is called %q: `tributary-collector reachability silences` lists them", id)
}
