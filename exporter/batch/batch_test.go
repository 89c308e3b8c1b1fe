package batch

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tributary/exporter/event"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

const noon = 1_790_000_000_000_000_000 // in 2026

func mapped(a, b, c, d byte) [16]byte {
	return [16]byte{10: 0xff, 11: 0xff, 12: a, 13: b, 14: c, 15: d}
}

func newBatcher(t testing.TB, change func(*Config)) (*Batcher, *[]*flowv1.Batch, *prometheus.Registry) {
	t.Helper()
	var sealed []*flowv1.Batch
	registry := prometheus.NewRegistry()
	config := Config{
		ExporterID: "host-1", Host: "host", BootID: "boot", Rows: 3,
		Emit: func(b *flowv1.Batch) { sealed = append(sealed, b) },
	}
	if change != nil {
		change(&config)
	}
	b, err := New(config, registry)
	if err != nil {
		t.Fatal(err)
	}
	return b, &sealed, registry
}

func open(t testing.TB, m *flowv1.Batch) *flow.Batch {
	t.Helper()
	opener, err := flow.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	b := new(flow.Batch)
	if err := opener.Open(m, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// row reads back every column of a row by its name; text and addresses are resolved, missing columns have their default.
func row(b *flow.Batch, i int) map[string]any {
	out := map[string]any{}
	for f := range flow.NumU32 {
		spec := f.Spec()
		if spec.Attribution {
			continue
		}
		v := spec.Missing
		if b.U32[f] != nil {
			v = b.U32[f][i]
		}
		switch spec.Type {
		case flow.TypeString:
			out[spec.Name] = b.Strings[v]
		case flow.TypeAddr:
			out[spec.Name] = b.Addrs[v]
		case flow.TypeEnum:
			out[spec.Name] = spec.Enum.Name(v)
		default:
			out[spec.Name] = uint64(v)
		}
	}
	for f := range flow.NumU64 {
		if spec := f.Spec(); !spec.Attribution {
			out[spec.Name] = uint64(0)
			if b.U64[f] != nil {
				out[spec.Name] = b.U64[f][i]
			}
		}
	}
	return out
}

// numbered returns an event whose every number is another one, so that no column can hold a neighbour's value.
func numbered() event.Event {
	var e event.Event
	v := reflect.ValueOf(&e).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.CanUint() && f.Kind() != reflect.Uint8 {
			f.SetUint(uint64(1000 + i))
		}
	}
	e.Kind, e.Role, e.RoleSource = event.KindClosed, event.RoleServer, event.RoleGuessed
	e.CloseReason, e.LastState = event.CloseRstRemote, event.StateCloseWait
	e.StartObserved, e.Accepted = true, true
	e.NetnsInum = 4026531840
	e.LocalAddr, e.RemoteAddr, e.OrigRemoteAddr = mapped(10, 0, 0, 1), mapped(10, 0, 0, 2), mapped(10, 0, 0, 3)
	return e
}

func TestEventBecomesColumns(t *testing.T) {
	e := numbered()
	local := Local{
		Comm: "nginx", Network: "lab", Workload: "shop/web", Instance: "web-1", Zone: "z", Region: "r", Release: "v2",
		Evidence: flow.EvidenceNetns, Why: flow.WhyNamed, Nat: netip.MustParseAddrPort("10.0.0.9:61000"),
	}
	for _, compress := range []bool{false, true} {
		b, sealed, _ := newBatcher(t, func(c *Config) {
			c.Compress = compress
			c.Counters = func() []*flowv1.Counter { return []*flowv1.Counter{{Name: "ring.read", Value: 7}} }
		})
		if !b.Add(&e, Times{noon, noon + 10, noon + 30}, &local) {
			t.Error("the first row did not open a batch")
		}
		b.Flush(Age)
		got := open(t, (*sealed)[0])
		want := map[string]any{
			"flow_id": e.FlowID, "record_seq": uint64(e.RecordSeq), "sock_cookie": e.SockCookie, "cgroup_id": e.CgroupID,
			"network": "lab", "comm": "nginx", "netns": "4026531840",
			"kind": "closed", "role": "server", "role_source": "guessed", "close_reason": "rst_remote", "last_state": "close_wait",
			"sample_rate": uint64(e.SampleRate), "connections": uint64(1), "failures": uint64(0),
			"start_time_ns": uint64(noon), "interval_start_ns": uint64(noon + 10), "end_time_ns": uint64(noon + 30),
			"local_addr": e.LocalAddr, "remote_addr": e.RemoteAddr, "orig_remote_addr": e.OrigRemoteAddr, "nat_local_addr": mapped(10, 0, 0, 9), "nat_local_port": uint64(61000),
			"local_port": uint64(e.LocalPort), "remote_port": uint64(e.RemotePort), "orig_remote_port": uint64(e.OrigRemotePort),
			"tx_bytes": e.TxBytes, "rx_bytes": e.RxBytes, "tx_bytes_before": e.TxBytesBefore, "rx_bytes_before": e.RxBytesBefore,
			"tx_segs": uint64(e.TxSegs), "rx_segs": uint64(e.RxSegs), "retrans_segs": uint64(e.RetransSegs),
			"retrans_syn": uint64(e.RetransSyn), "retrans_closing": uint64(e.RetransClosing), "retrans_bytes": e.RetransBytes,
			"lost_segs": uint64(e.LostSegs), "reord_seen": uint64(e.ReordSeen), "delivered_ce": uint64(e.DeliveredCE),
			"rst_sent": uint64(e.RstSent), "rst_received": uint64(e.RstReceived), "rto": uint64(e.RTO),
			"srtt_us": uint64(e.SrttUs), "min_rtt_us": uint64(e.MinRttUs), "rttvar_us": uint64(e.RttvarUs),
			"connect_us": uint64(e.ConnectUs),
			"snd_cwnd":   uint64(e.SndCwnd), "mss": uint64(e.MSS),
			"busy_us": e.BusyUs, "rwnd_limited_us": e.RwndLimitedUs, "sndbuf_limited_us": e.SndbufLimitedUs,
			"start_observed": uint64(1), "accepted": uint64(1), "replay": uint64(0), "errno": uint64(e.Errno),
			"pid": uint64(e.PID), "uid": uint64(e.UID),
			"local_workload": "shop/web", "local_instance": "web-1", "local_zone": "z", "local_region": "r", "local_release": "v2",
			"local_evidence": "netns", "local_why": "named",
		}
		if diff := cmp.Diff(want, row(got, 0)); diff != "" {
			t.Errorf("compress %v (-want +got):\n%s", compress, diff)
		}
		header := flow.Header{ExporterID: "host-1", Seq: 1, Host: "host", BootID: "boot", SealedTimeNs: got.SealedTimeNs, Counters: []flow.Counter{{Name: "ring.read", Value: 7}}}
		if diff := cmp.Diff(header, got.Header); diff != "" {
			t.Errorf("header (-want +got):\n%s", diff)
		}
	}
}

func TestFailedUnnamedAndSaturated(t *testing.T) {
	b, sealed, _ := newBatcher(t, nil)
	e := event.Event{Kind: event.KindFailed, Role: event.RoleClient, FlowID: 1, Errno: 111, RetransBytes: 1 << 40, RemoteAddr: mapped(10, 0, 0, 9)}
	b.Add(&e, Times{noon, noon, noon}, &Local{Network: "default"})
	b.Flush(Shutdown)
	got := row(open(t, (*sealed)[0]), 0)
	for name, want := range map[string]any{
		"failures": uint64(1), "errno": uint64(111), "retrans_bytes": uint64(1<<32 - 1), "local_workload": "", "local_why": "no_evidence",
		"local_evidence": "none", "comm": "", "netns": "",
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

func TestBooksAndSequence(t *testing.T) {
	b, sealed, registry := newBatcher(t, nil)
	e := numbered()
	at := Times{noon, noon, noon + 1}
	for range 7 {
		b.Add(&e, at, &Local{})
	}
	for _, bad := range []Times{{0, 0, 1}, {noon, noon - 1, noon}, {noon, noon, noon - 1}, {noon, noon, 1 << 62}} {
		if b.Add(&e, bad, &Local{}) {
			t.Errorf("times %v were taken", bad)
		}
	}
	b.Flush(Age)
	b.Flush(Age) // nothing is there
	b.Add(&e, at, &Local{})
	b.Flush(Shutdown)
	b.Add(&e, at, &Local{})
	var seqs, rows []uint64
	for _, m := range *sealed {
		open(t, m)
		seqs, rows = append(seqs, m.BatchSeq), append(rows, uint64(m.Rows))
	}
	if diff := cmp.Diff([]uint64{1, 2, 3, 4}, seqs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uint64{3, 3, 1, 1}, rows); diff != "" {
		t.Error(diff)
	}
	want := `
# HELP tributary_exporter_batch_open_rows Rows that wait for their batch to be sealed.
# TYPE tributary_exporter_batch_open_rows gauge
tributary_exporter_batch_open_rows 1
# HELP tributary_exporter_batch_refused_rows_total Rows left out because their times are not between 2020 and 2100: the host's clock is wrong.
# TYPE tributary_exporter_batch_refused_rows_total counter
tributary_exporter_batch_refused_rows_total 4
# HELP tributary_exporter_batch_sealed_batches_total Batches sealed, by what sealed them.
# TYPE tributary_exporter_batch_sealed_batches_total counter
tributary_exporter_batch_sealed_batches_total{reason="age"} 1
tributary_exporter_batch_sealed_batches_total{reason="full"} 2
tributary_exporter_batch_sealed_batches_total{reason="shutdown"} 1
# HELP tributary_exporter_batch_sealed_rows_total Rows in sealed batches.
# TYPE tributary_exporter_batch_sealed_rows_total counter
tributary_exporter_batch_sealed_rows_total 8
`
	names := []string{"open_rows", "refused_rows_total", "sealed_batches_total", "sealed_rows_total"}
	for i := range names {
		names[i] = "tributary_exporter_batch_" + names[i]
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	if b.Refused() != 4 || b.Rows() != 1 {
		t.Errorf("refused %d, open %d", b.Refused(), b.Rows())
	}
}

func TestNewRefusesSizes(t *testing.T) {
	for _, rows := range []int{0, MaxRows + 1} {
		if _, err := New(Config{Rows: rows}, prometheus.NewRegistry()); err == nil {
			t.Errorf("%d rows were accepted", rows)
		}
	}
}

func TestTextsAreBounded(t *testing.T) {
	b, _, _ := newBatcher(t, nil)
	for i := range uint32(maxNetns * 2) {
		if b.netnsText(i) == "" {
			t.Fatal("a text is empty")
		}
	}
	if len(b.netns) > maxNetns {
		t.Errorf("%d texts are kept", len(b.netns))
	}
}

func BenchmarkAdd(b *testing.B) {
	for name, compress := range map[string]bool{"none": false, "zstd": true} {
		b.Run(name, func(b *testing.B) {
			batcher, err := New(Config{ExporterID: "x", Rows: 1000, Compress: compress, Emit: func(*flowv1.Batch) {}}, prometheus.NewRegistry())
			if err != nil {
				b.Fatal(err)
			}
			e := numbered()
			local := Local{Network: "default", Workload: "shop/web", Instance: "web-1", Zone: "z", Evidence: flow.EvidenceNetns}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e.FlowID, e.SockCookie, e.TxBytes, e.RxBytes = uint64(i+1), uint64(i*3), uint64(i%5000), uint64(i%70000)
				e.RemoteAddr = mapped(10, 1, byte(i>>8), byte(i))
				e.LocalPort = uint16(i)
				batcher.Add(&e, Times{noon + int64(i)*1000, noon + int64(i)*1000, noon + int64(i)*1500}, &local)
			}
		})
	}
}

// A connection that is translated goes where it really goes, and has what was asked for first: by the program, else by its socket.
func TestPeerOfATranslatedConnection(t *testing.T) {
	b, sealed, _ := newBatcher(t, nil)
	peer := netip.MustParseAddrPort("10.9.9.9:8080")
	e := numbered()
	b.Add(&e, Times{noon, noon, noon}, &Local{Peer: peer})
	e.OrigRemoteAddr, e.OrigRemotePort = [16]byte{}, 0
	b.Add(&e, Times{noon, noon, noon}, &Local{Peer: peer})
	b.Flush(Age)
	got := open(t, (*sealed)[0])
	asked := map[uint64]bool{}
	for i := range 2 {
		r := row(got, i)
		if r["remote_addr"] != mapped(10, 9, 9, 9) || r["remote_port"] != uint64(8080) {
			t.Errorf("it goes to %v, %v", r["remote_addr"], r["remote_port"])
		}
		asked[r["orig_remote_port"].(uint64)] = true
	}
	if first := numbered(); !asked[uint64(first.OrigRemotePort)] || !asked[uint64(first.RemotePort)] {
		t.Errorf("asked for %v", asked)
	}
}

// TestBatchesThatFitADatagram: with a bound, batches soon keep to it and fill it well, and carry no counters.
func TestBatchesThatFitADatagram(t *testing.T) {
	const most = 1000
	bounded := true
	for _, compress := range []bool{false, true} {
		b, sealed, _ := newBatcher(t, func(c *Config) {
			c.Rows, c.Compress = 1000, compress
			c.Counters = func() []*flowv1.Counter { return []*flowv1.Counter{{Name: "ring.read", Value: 7}} }
			c.Most = func() int { return map[bool]int{true: most}[bounded] }
		})
		e := numbered()
		for i := range 3000 {
			e.FlowID, e.TxBytes, e.RemotePort = uint64(i), uint64(i*i*7919), uint16(i*31)
			b.Add(&e, Times{noon + int64(i*i), noon + int64(i*i), noon + int64(i*i*i)}, &Local{Network: "default"})
		}
		b.Flush(Age)
		over, bytes := 0, 0
		for _, m := range *sealed {
			open(t, m)
			size := len(m.Payload)
			bytes += size
			if size > most {
				over++
			}
			if (size > most) != (len(m.Counters) > 0) {
				t.Errorf("%d bytes with %d counters", size, len(m.Counters))
			}
		}
		if mean := bytes / len(*sealed); over > len(*sealed)/20 || mean < most*2/3 {
			t.Errorf("compress %v: %d batches of %d are too large, %d bytes in the mean", compress, over, len(*sealed), mean)
		}
		bounded = false
		for range 999 {
			b.Add(&e, Times{noon, noon, noon}, &Local{})
		}
		bounded = true
		if b.Rows() != 999 {
			t.Errorf("%d rows are open without a bound", b.Rows())
		}
	}
}
