package renames

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tributary/collector/pairs"
	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/collector/sink/clickhouse"
	"tributary/proto/flow"
)

func TestMain(m *testing.M) { schematest.Main(m) }

// bus keeps what it is given.
type bus struct {
	batches []*flow.Batch
	err     error
}

func (s *bus) Write(b *flow.Batch, done func(error)) {
	s.batches = append(s.batches, b)
	go done(s.err)
}

// full is a batch with a value in every column.
func full(t0 time.Time) *flow.Batch {
	b := &flow.Batch{Rows: 3, Strings: []string{""}, AttrStrings: []string{""}, Addrs: [][16]byte{{}}}
	b.Header = flow.Header{ExporterID: "x", Seq: 7, Host: "h", BootID: "b"}
	b.ReceivedTimeNs = t0.UnixNano() + 5
	for f := range flow.NumU32 {
		col := b.Make32(f)
		for row := range col {
			switch spec := f.Spec(); {
			case spec.Type == flow.TypeString && spec.Attribution:
				b.AttrStrings = append(b.AttrStrings, spec.Name+" "+strings.Repeat("x", row))
				col[row] = uint32(len(b.AttrStrings) - 1)
			case spec.Type == flow.TypeString:
				b.Strings = append(b.Strings, spec.Name+" "+strings.Repeat("x", row))
				col[row] = uint32(len(b.Strings) - 1)
			case spec.Type == flow.TypeAddr:
				b.Addrs = append(b.Addrs, netip.AddrFrom4([4]byte{10, byte(f), 0, byte(row)}).As16())
				col[row] = uint32(len(b.Addrs) - 1)
			case spec.Type == flow.TypeEnum, spec.Type == flow.TypeBool:
				col[row] = 1
			default:
				col[row] = uint32(spec.Max) - uint32(f) - uint32(row)
			}
		}
	}
	for f := range flow.NumU64 {
		col := b.Make64(f)
		for row := range col {
			col[row] = uint64(t0.UnixNano()) + uint64(f) + uint64(row)<<8
		}
	}
	for row := range b.Rows {
		b.U32[flow.Kind][row], b.U32[flow.Version][row], b.U32[flow.RemoteWhy][row] = flow.KindClosed, 2, flow.WhyPending
		b.U64[flow.StartTimeNs][row], b.U64[flow.IntervalStartNs][row], b.U64[flow.EndTimeNs][row] = uint64(t0.UnixNano()), uint64(t0.UnixNano()), uint64(t0.UnixNano()+9)
	}
	return b
}

func load(t *testing.T, s schema.Server, b *flow.Batch) {
	t.Helper()
	out, err := clickhouse.New(clickhouse.Config{Server: s, BlockAge: time.Millisecond}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.Write(b, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	if err := out.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// text writes every value of a batch but what a rename changes, by row key.
func text(b *flow.Batch) map[[2]uint64]string {
	out := map[[2]uint64]string{}
	for row := range b.Rows {
		var s strings.Builder
		for f := range flow.NumU32 {
			switch spec := f.Spec(); {
			case f == flow.Version || f == flow.RemoteWhy || f == flow.RemoteWorkload:
			case spec.Type == flow.TypeString:
				s.WriteString(spec.Name + "=" + b.Text(f, row) + "\n")
			case spec.Type == flow.TypeAddr:
				s.WriteString(spec.Name + "=" + netip.AddrFrom16(b.Addr(f, row)).String() + "\n")
			default:
				s.WriteString(spec.Name + "=" + time.Duration(b.Get32(f, row)).String() + "\n")
			}
		}
		for f := range flow.NumU64 {
			s.WriteString(f.Spec().Name + "=" + time.Duration(b.Get64(f, row)).String() + "\n")
		}
		out[[2]uint64{b.Get64(flow.FlowID, row), uint64(b.Get32(flow.RecordSeq, row))}] = s.String()
	}
	return out
}

func exec(t *testing.T, s schema.Server, text string) {
	t.Helper()
	c := schema.NewClient(s, 1)
	defer c.Close()
	if err := c.Exec(t.Context(), schema.Statement{Text: text}); err != nil {
		t.Fatal(err)
	}
}

// TestToldWhole: a renamed row reaches the sink once, with every column as it was stored, and any consumer's decoder takes it.
func TestToldWhole(t *testing.T) {
	s := schematest.Migrated(t)
	t0 := time.Now().Add(-time.Minute).Truncate(time.Second)
	stored := full(t0)
	load(t, s, stored)
	const made = " (job, run, made, exporter_id, flow_id, record_seq, version, remote_workload, remote_why, end_time_ns) SELECT 'reattribute', 9, now() - 40, " +
		"exporter_id, flow_id, record_seq, 3, 'shop/api', 'named', end_time_ns FROM "
	exec(t, s, "INSERT INTO "+s.Database+".renames"+made+s.Database+".flows WHERE record_seq % 3 != 2")
	to := &bus{}
	reg := prometheus.NewRegistry()
	teller := New(Config{}, s, to, reg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	step := func() {
		t.Helper()
		if err := teller.Step(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	step() // reattribute has not written the rows yet
	if len(to.batches) != 0 {
		t.Fatalf("%d batches of rows that are not there", len(to.batches))
	}
	exec(t, s, "INSERT INTO "+s.Database+".flows_raw SELECT * REPLACE (3 AS version, 'shop/api' AS remote_workload, 'named' AS remote_why) FROM "+
		s.Database+".flows WHERE record_seq % 3 != 2")
	to.err = errors.New("stopped")
	if err := teller.Step(t.Context(), false); err == nil {
		t.Fatal("a sink that did not take it is no error")
	}
	to.batches, to.err = nil, nil
	step()
	step()
	if len(to.batches) != 1 || to.batches[0].Rows != 2 {
		t.Fatalf("told: %+v", to.batches)
	}
	b := to.batches[0]
	value, err := b.AppendAttributed(nil, b.AppendAttribution(nil))
	if err != nil {
		t.Fatal(err)
	}
	opener, err := flow.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	read := new(flow.Batch)
	if err := opener.OpenAttributed(value, read); err != nil {
		t.Fatal(err)
	}
	want := text(stored)
	for key, got := range text(read) {
		if d := cmp.Diff(want[key], got); d != "" {
			t.Errorf("row %v (-stored +told):\n%s", key, d)
		}
	}
	if read.Header.ExporterID != "x" || read.Seq != 7 || read.Host != "h" || read.BootID != "b" || read.ReceivedTimeNs != stored.ReceivedTimeNs {
		t.Errorf("header: %+v, received %d", read.Header, read.ReceivedTimeNs)
	}
	for row := range read.Rows {
		if read.Text(flow.RemoteWorkload, row) != "shop/api" || read.Get32(flow.Version, row) != 3 || read.Get32(flow.RemoteWhy, row) != flow.WhyNamed {
			t.Errorf("row %d is not renamed", row)
		}
	}
	if n := testutil.ToFloat64(teller.rows.WithLabelValues("reattribute")); n != 2 {
		t.Errorf("%v rows counted", n)
	}
}

// TestPairsAreToldAtOnce: both ends of a connection, each with the exporter that recorded it.
func TestPairsAreToldAtOnce(t *testing.T) {
	s := schematest.Migrated(t)
	t0 := time.Now().Add(-time.Minute).Truncate(time.Second)
	end := func(exporter string, role uint32, local, remote, name string) records.Record {
		return records.Record{
			Exporter: exporter, Flow: 1, Version: 4<<24 | 1, Kind: flow.KindClosed, Role: role, Local: local, Remote: remote, Names: [2]string{name, ""},
			Why: flow.WhyPending, Start: 10, End: 11, Observed: true,
		}
	}
	records.Load(t, s, t0, []records.Record{
		end("x", flow.RoleClient, "10.0.0.1:4001", "10.0.0.2:80", "shop/web"), end("y", flow.RoleServer, "10.0.0.2:80", "10.0.0.1:4001", "shop/api"),
	})
	to := &bus{}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	teller := New(Config{}, s, to, prometheus.NewRegistry(), log)
	job := pairs.New(pairs.Config{Renamed: teller.Wake}, s, prometheus.NewRegistry(), log)
	if err := job.Step(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if len(teller.wake) != 1 {
		t.Error("nobody was woken")
	}
	for range 2 {
		if err := teller.Step(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, b := range to.batches {
		for row := range b.Rows {
			got = append(got, b.ExporterID+" "+b.Text(flow.RemoteWorkload, row)+" "+flow.EvidenceNames.Name(b.Get32(flow.RemoteEvidence, row)))
		}
	}
	if d := cmp.Diff([]string{"x shop/api mirror", "y shop/web mirror"}, got); d != "" {
		t.Error(d)
	}
}

// TestBrokenOff: an answer that ends within a row, or lies about a length, is an error and no row.
func TestBrokenOff(t *testing.T) {
	for name, body := range map[string][]byte{"cut off": {1, 3, 'a', 'b'}, "a long string": {1, 0xff, 0xff, 0xff, 0x7f}, "a flag alone": {1}} {
		if told, _, err := eachBatch(bytes.NewReader(body), func(*flow.Batch) {}); err == nil || told != 0 {
			t.Errorf("%s: %d rows, %v", name, told, err)
		}
	}
	if _, _, err := eachBatch(bytes.NewReader([]byte{1, 3, 'a'}), func(*flow.Batch) {}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}
