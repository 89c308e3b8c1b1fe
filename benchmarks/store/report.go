package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tributary/collector/query"
	"tributary/collector/schema"
)

// report prints the tables of docs/schema.md.
func (b *bench) report(ctx context.Context) error {
	if err := b.disk(ctx); err != nil {
		return err
	}
	return b.questions(ctx)
}

type tableSize struct {
	Table string  `json:"table"`
	Rows  uint64  `json:"rows"`
	Bytes uint64  `json:"bytes"`
	Each  float64 `json:"each"`
}

type columnSize struct {
	Name  string  `json:"name"`
	Codec string  `json:"codec"`
	Each  float64 `json:"each"`
}

func (b *bench) disk(ctx context.Context) error {
	tables, err := schema.Rows[tableSize](ctx, b.client, schema.Statement{Text: `SELECT table, sum(p.rows) AS rows, sum(bytes_on_disk) AS bytes, bytes / rows AS each
FROM system.parts AS p WHERE active AND database = currentDatabase() GROUP BY table ORDER BY bytes DESC`})
	if err != nil {
		return err
	}
	var raw, edges, ledgers uint64
	fmt.Print("| table | rows | MB on disk | bytes a row |\n|---|--:|--:|--:|\n")
	for _, t := range tables {
		fmt.Printf("| `%s` | %d | %.1f | %.1f |\n", t.Table, t.Rows, float64(t.Bytes)/1e6, t.Each)
		switch t.Table {
		case "flows_raw":
			raw = t.Bytes
		case "edges_1m_gens", "edges_1h_gens", "map_1h_gens":
			edges += t.Bytes
		case "recorded_1m_gens", "reachability_gens":
			ledgers += t.Bytes
		}
	}
	percent := func(bytes uint64) float64 { return 100 * float64(bytes) / float64(max(1, raw)) }
	fmt.Printf("\nRoll-ups of edges are %.2f %% of raw flows; with the ledgers of reachability and of who recorded what %.2f %%.\n\n", percent(edges), percent(edges+ledgers))
	for _, table := range []string{"flows_raw", "edges_1m_gens"} {
		columns, err := schema.Rows[columnSize](ctx, b.client, schema.Statement{
			Text: `SELECT name, compression_codec AS codec, data_compressed_bytes / (SELECT sum(rows) FROM system.parts WHERE active AND database = currentDatabase() AND table = {table:String}) AS each
FROM system.columns WHERE database = currentDatabase() AND table = {table:String} ORDER BY each DESC LIMIT 40`, Params: map[string]string{"table": table},
		})
		if err != nil {
			return err
		}
		fmt.Printf("| column of `%s` | codec | bytes a row |\n|---|---|--:|\n", table)
		for _, c := range columns {
			fmt.Printf("| `%s` | %s | %.2f |\n", c.Name, c.Codec, c.Each)
		}
		fmt.Println()
	}
	return nil
}

// question is something to measure: a statement, or what a verb does.
type question struct {
	name string
	bar  time.Duration
	text string
	verb func(ctx context.Context, c *query.Client, w io.Writer) error
}

// questionList returns the questions of the bars, as of five minutes after the newest minute that has records, when every minute is computed; and some as of the end
// of that minute: then the last two are read from single records, as those are in a store that is written to.
func (b *bench) questionList(newest time.Time) []question {
	until := newest.UTC().Truncate(time.Minute).Add(5 * time.Minute)
	clock := func() time.Time { return until }
	const busy, other = "team-00/service-000", "team-00/service-150"
	address := netip.AddrFrom16(newWorld(b.o.seed).instances[0].addr).Unmap().String() // of busy
	around := func(workload string, at time.Time) func(ctx context.Context, c *query.Client, w io.Writer) error {
		return func(ctx context.Context, c *query.Client, w io.Writer) error {
			return query.Map(ctx, c, query.MapOptions{Since: "-24h", Workload: workload, Format: query.FormatJSON}, func() time.Time { return at }, w)
		}
	}
	hourAgo := until.Add(-2 * time.Hour)
	return []question{
		{name: "map of the last 24 h (verb, JSON)", bar: 200 * time.Millisecond, verb: around("", until)},
		{name: "the same, the newest minutes from single records", bar: 200 * time.Millisecond, verb: around("", newest)},
		{name: "map of the last 24 h (view edges_1h)", bar: 200 * time.Millisecond, text: `SELECT client_workload, server_workload, server_port, sum(e.connections), sum(e.bytes_to_server), quantilesExactWeightedArray(0.5, 0.95, 0.99)(mapKeys(e.rtt_us_histogram), mapValues(e.rtt_us_histogram))
FROM edges_1h AS e WHERE hour >= now() - INTERVAL 24 HOUR GROUP BY ALL`},
		{name: "the busiest workload's edges, 24 h (verb)", bar: 50 * time.Millisecond, verb: around(busy, until)},
		{name: "another workload's edges, 24 h (verb)", bar: 50 * time.Millisecond, verb: around(other, until)},
		{name: "the same, the newest minutes from single records", bar: 50 * time.Millisecond, verb: around(other, newest)},
		{name: "another workload's edges, 24 h (view edges_1h)", bar: 50 * time.Millisecond, text: `SELECT client_workload, server_workload, server_port, sum(e.connections) FROM edges_1h AS e
WHERE (client_workload = '` + other + `' OR server_workload = '` + other + `') AND hour >= now() - INTERVAL 24 HOUR GROUP BY ALL`},
		{name: "the busiest workload's edges, computed hours", bar: 50 * time.Millisecond, text: `SELECT client_workload, server_workload, server_port, sum(e.connections) FROM edges_1h_gens AS e
WHERE (client_workload = '` + busy + `' OR server_workload = '` + busy + `') AND (hour, gen) IN (SELECT start, gen FROM closed_latest WHERE step = 'hour') GROUP BY ALL`},
		{name: "whois, from flows", bar: 20 * time.Millisecond, verb: func(ctx context.Context, c *query.Client, w io.Writer) error {
			return query.Whois(ctx, c, query.WhoisOptions{Address: address, At: hourAgo.Format(time.RFC3339), Format: query.FormatJSON}, clock, w)
		}},
		{name: "one workload's raw flows of an hour", bar: 500 * time.Millisecond, text: fmt.Sprintf("SELECT * FROM flows WHERE local_workload = '%s' AND end_time_ns >= fromUnixTimestamp64Nano(%d) AND end_time_ns < fromUnixTimestamp64Nano(%d) FORMAT Null",
			busy, hourAgo.Add(-time.Hour).UnixNano(), hourAgo.UnixNano())},
		{name: "a day's map from raw flows", bar: 5 * time.Second, text: `SELECT if(role = 'client', local_workload, remote_workload) AS client, if(role = 'client', remote_workload, local_workload) AS server, if(role = 'client', remote_port, local_port) AS port,
    countIf(start_observed AND record_seq = 0), sum(failures), sum(tx_bytes), sum(rx_bytes), quantileTDigest(0.95)(srtt_us)
FROM flows WHERE (role = 'client' OR remote_workload = '') AND end_time_ns >= now() - INTERVAL 24 HOUR GROUP BY client, server, port`},
	}
}

func (b *bench) questions(ctx context.Context) error {
	reader := query.NewClient(b.server)
	defer reader.Close()
	found, err := schema.Rows[struct {
		End int64 `json:"end"`
	}](ctx, b.client, schema.Statement{Text: "SELECT toUnixTimestamp(max(end_time_ns)) + 1 AS end FROM flows_raw"})
	if err != nil {
		return err
	}
	fmt.Print("| question | median ms | processor ms | bar ms | rows read | MB read |\n|---|--:|--:|--:|--:|--:|\n")
	for _, q := range b.questionList(time.Unix(found[0].End, 0)) {
		var took []time.Duration
		var read [2]uint64
		before, err := b.processor(ctx)
		if err != nil {
			return err
		}
		for range b.o.runs {
			began := time.Now()
			if q.verb != nil {
				err = q.verb(ctx, reader, io.Discard)
			} else {
				read, err = b.ask(ctx, q.text)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			took = append(took, time.Since(began))
		}
		after, err := b.processor(ctx)
		if err != nil {
			return err
		}
		slices.Sort(took)
		rows, mb := "", ""
		if q.verb == nil {
			rows, mb = fmt.Sprint(read[0]), fmt.Sprintf("%.1f", float64(read[1])/1e6)
		}
		fmt.Printf("| %s | %.1f | %.0f | %d | %s | %s |\n", q.name, float64(took[len(took)/2].Microseconds())/1000, float64(after-before)/1000/float64(b.o.runs), q.bar.Milliseconds(), rows, mb)
	}
	return nil
}

// processor returns the processor time of all questions so far, microseconds.
func (b *bench) processor(ctx context.Context) (uint64, error) {
	found, err := schema.Rows[struct {
		Micros uint64 `json:"micros"`
	}](ctx, b.client, schema.Statement{Text: "SELECT sum(value) AS micros FROM system.events WHERE event IN ('UserTimeMicroseconds', 'SystemTimeMicroseconds')"})
	if err != nil {
		return 0, err
	}
	return found[0].Micros, nil
}

// ask runs a statement and returns the rows and bytes it read.
func (b *bench) ask(ctx context.Context, text string) (read [2]uint64, err error) {
	answer, err := b.client.Do(ctx, schema.Statement{Text: text})
	if err != nil {
		return read, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return read, err
	}
	var summary struct {
		Rows  string `json:"read_rows"`
		Bytes string `json:"read_bytes"`
	}
	if err := json.Unmarshal([]byte(answer.Header.Get("X-ClickHouse-Summary")), &summary); err != nil {
		return read, err
	}
	for i, s := range []string{summary.Rows, summary.Bytes} {
		if read[i], err = strconv.ParseUint(s, 10, 64); err != nil {
			return read, err
		}
	}
	return read, nil
}
