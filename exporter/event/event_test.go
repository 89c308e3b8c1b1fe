package event

import (
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sample is a server's end that was closed by its peer.
func sample() Record {
	r := Record{
		Sock: 0xffff888012345678, OpenedNs: 2_000_000_100, StartNs: 2_000_000_000, EndNs: 3_000_000_000,
		SockCookie: 77, NetnsCookie: 5, CgroupID: 101, SockCgroupID: 82,
		TxBytes: 1000, RxBytes: 100, RetransBytes: 40,
		TxSegs: 9, RxSegs: 8, RetransSegs: 4, RetransSyn: 1, RetransClosing: 2, LostSegs: 3, ReordSeen: 5, DeliveredCE: 6, RTO: 7,
		SrttUs: 35, MinRttUs: 30, RttvarUs: 11, ConnectUs: 33, SndCwnd: 10, MSS: 1448,
		BusyJiffies: 12, RwndJiffies: 3, SndbufJiffies: 4, TickUs: 4000,
		NetnsInum: 4026531840, PID: 4711, UID: 33, LocalPort: 443, RemotePort: 50000,
		Flags: FlagStartObserved | FlagEstablished | FlagAccepted,
		Kind:  uint8(KindClosed), Role: uint8(RoleServer), LastState: uint8(StateLastAck), FirstFin: FinRemote,
	}
	copy(r.LocalAddr[10:], []byte{0xff, 0xff, 10, 0, 0, 1})
	copy(r.RemoteAddr[10:], []byte{0xff, 0xff, 10, 0, 0, 2})
	copy(r.Comm[:], "nginx")
	return r
}

// golden is sample as the kernel writes it on a little-endian machine.
const golden = "7856341280" + "88ffff" + "64943577000000000094357700000000005ed0b200000000" +
	"4d00000000000000" + "0500000000000000" + "6500000000000000" + "5200000000000000" +
	"e803000000000000" + "6400000000000000" + "2800000000000000" +
	"09000000" + "08000000" + "04000000" + "01000000" + "02000000" + "03000000" + "05000000" + "06000000" + "07000000" +
	"23000000" + "1e000000" + "0b000000" + "21000000" + "0a000000" + "a8050000" +
	"0c000000" + "03000000" + "04000000" + "a00f0000" + "000000f0" + "67120000" + "21000000" +
	"00000000000000000000ffff0a000001" + "00000000000000000000ffff0a000002" + "6e67696e780000000000000000000000" +
	"bb01" + "50c3" + "0000" + "0000" + "0700" + "02" + "02" + "09" + "02" + "0000" + "00000000000000000000000000000000"

func TestDecodeGolden(t *testing.T) {
	r := sample()
	if got := hex.EncodeToString(r.Encode()); got != golden {
		t.Fatalf("record layout changed:\n got %s\nwant %s", got, golden)
	}
	b, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	var got Event
	if err := Decode(b, &got); err != nil {
		t.Fatal(err)
	}
	want := Event{
		Kind: KindClosed, Role: RoleServer, CloseReason: CloseFinRemote, LastState: StateLastAck,
		StartObserved: true, Accepted: true,
		Sock: 0xffff888012345678, Opened: 2_000_000_100, Start: 2_000_000_000, IntervalStart: 2_000_000_000, End: 3_000_000_000,
		LocalAddr: r.LocalAddr, RemoteAddr: r.RemoteAddr, LocalPort: 443, RemotePort: 50000,
		SockCookie: 77, NetnsCookie: 5, NetnsInum: 4026531840, CgroupID: 101, SockCgroupID: 82, PID: 4711, UID: 33, Comm: r.Comm,
		TxBytes: 1000, RxBytes: 100, RetransBytes: 40, TxSegs: 9, RxSegs: 8, RetransSegs: 4, RetransSyn: 1, RetransClosing: 2,
		LostSegs: 3, ReordSeen: 5, DeliveredCE: 6, RTO: 7, SrttUs: 35, MinRttUs: 30, RttvarUs: 11, SndCwnd: 10, MSS: 1448,
		BusyUs: 48000, RwndLimitedUs: 12000, SndbufLimitedUs: 16000, // no ConnectUs: it is a server's
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeUnobserved(t *testing.T) {
	r := sample()
	r.OpenedNs, r.Flags, r.Role = 0, FlagEstablished, 0
	var e Event
	if err := Decode(r.Encode(), &e); err != nil {
		t.Fatal(err)
	}
	if e.StartObserved || e.TxBytes != 0 || e.RxBytes != 0 || e.TxBytesBefore != 1000 || e.RxBytesBefore != 100 || e.TxSegs != 0 || e.RetransBytes != 0 {
		t.Errorf("%+v", e)
	}
}

// A server does not connect, and a client that was found while it waited has waited longer than we know.
func TestConnectTime(t *testing.T) {
	for _, c := range []struct {
		role  Role
		flags uint16
		want  uint32
	}{
		{RoleClient, FlagStartObserved, 33},
		{RoleClient, FlagFound, 0},
		{RoleServer, FlagStartObserved, 0},
	} {
		r := sample()
		r.Role, r.Flags = uint8(c.role), FlagEstablished|c.flags
		var e Event
		if err := Decode(r.Encode(), &e); err != nil || e.ConnectUs != c.want {
			t.Errorf("role %d, flags %#x: %d us, %v; want %d us", c.role, r.Flags, e.ConnectUs, err, c.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*Record)
		want  error
	}{
		{"no kind", func(r *Record) { r.Kind = 0 }, ErrKind},
		{"rollup from the kernel", func(r *Record) { r.Kind = 4 }, ErrKind},
		{"role", func(r *Record) { r.Role = 3 }, ErrRole},
		{"no role although observed", func(r *Record) { r.Role = 0 }, ErrFlags},
		{"state 0", func(r *Record) { r.LastState = 0 }, ErrState},
		{"a connection that was never open", func(r *Record) { r.LastState = 7 }, ErrState},
		{"state 13", func(r *Record) { r.LastState = 13 }, ErrState},
		{"unknown flag", func(r *Record) { r.Flags |= flagsEnd }, ErrFlags},
		{"first fin", func(r *Record) { r.FirstFin = 3 }, ErrFlags},
		{"observed without opening", func(r *Record) { r.OpenedNs = 0 }, ErrFlags},
		{"closed but never established", func(r *Record) { r.Flags &^= FlagEstablished }, ErrFlags},
		{"failed but established", func(r *Record) { r.Kind = uint8(KindFailed) }, ErrFlags},
		{"active but not reported", func(r *Record) { r.Kind = uint8(KindActive) }, ErrFlags},
		{"end before start", func(r *Record) { r.EndNs = r.StartNs - 1 }, ErrTime},
		{"end before opening", func(r *Record) { r.OpenedNs = r.EndNs + 1 }, ErrTime},
		{"no end", func(r *Record) { r.EndNs, r.StartNs = 0, 0 }, ErrTime},
		{"far future", func(r *Record) { r.EndNs = maxTime + 1 }, ErrTime},
		{"errno", func(r *Record) { r.SkErr = 4096 }, ErrErrno},
		{"soft errno", func(r *Record) { r.SkErrSoft = 4096 }, ErrErrno},
		{"asked by nobody", func(r *Record) { r.Role, r.AskedPort = uint8(RoleServer), 1 }, ErrAsked},
		{"found and observed", func(r *Record) { r.Flags |= FlagFound }, ErrFlags},
		{"guessed role without a role", func(r *Record) { r.Role, r.OpenedNs, r.Flags = 0, 0, FlagEstablished|FlagRoleGuessed }, ErrFlags},
		{"active in state 0", func(r *Record) {
			r.LastState, r.Kind, r.Flags = 0, uint8(KindActive), r.Flags|FlagReported|FlagRoleGuessed
		}, ErrState},
		{"a jiffy of a second", func(r *Record) { r.TickUs = 1e6 }, ErrCounters},
		{"no socket", func(r *Record) { r.Sock = 0 }, ErrIdentity},
		{"more SYNs than retransmissions", func(r *Record) { r.RetransSyn = 5 }, ErrCounters},
		{"more closing than retransmissions", func(r *Record) { r.RetransClosing = 5 }, ErrCounters},
	} {
		r := sample()
		c.spoil(&r)
		var e Event
		if err := Decode(r.Encode(), &e); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	var e Event
	r := sample()
	for _, b := range [][]byte{nil, {1}, r.Encode()[:RecordSize-1], append(r.Encode(), 0)} {
		if err := Decode(b, &e); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	r := sample()
	f.Add(r.Encode())
	r.Kind, r.Flags = uint8(KindActive), r.Flags|FlagReported
	f.Add(r.Encode())
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Event
		if err := Decode(b, &e); err != nil {
			return
		}
		if e.End < e.Start || e.Kind < KindActive || e.Kind > KindFailed || e.Role > RoleServer || e.CloseReason > CloseAborted ||
			e.LastState == StateUnknown && e.RoleSource != RoleGuessed || e.LastState > StateNewSynRecv {
			t.Errorf("impossible event from a record: %+v", e)
		}
		tracker := NewTracker()
		tracker.Apply(&e)
		if e.FlowID != 1 || e.IntervalStart > e.End || e.CommString() == "" && e.Comm[0] != 0 {
			t.Errorf("impossible event: %+v", e)
		}
	})
}

func TestCommString(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "nginx": "nginx", "a\x00b": "a", "\x1b[31mred": "?[31mred", "caf\xc3\xa9": "caf??", "0123456789abcdef": "0123456789abcdef",
	} {
		var e Event
		copy(e.Comm[:], in)
		if got := e.CommString(); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestCloseReasons(t *testing.T) {
	const est, fail = FlagStartObserved | FlagEstablished, FlagStartObserved
	for _, c := range []struct {
		name  string
		state TCPState
		errno uint16
		flags uint16
		fin   uint8
		want  CloseReason
	}{
		{"refused", StateSynSent, errConnRefused, fail | FlagRstReceived, 0, CloseRefused},
		{"SYN timeout", StateSynSent, errTimedOut, fail, 0, CloseTimeout},
		{"ARP failure", StateSynSent, errHostUnreach, fail, 0, CloseUnreachable},
		{"ICMP net unreachable", StateSynSent, errNetUnreach, fail, 0, CloseUnreachable},
		{"abandoned", StateSynSent, 0, fail, 0, CloseAborted},
		{"policy", StateSynSent, errPerm, fail, 0, ClosePolicy},
		{"policy, before the SYN", StateClose, errPerm, fail, 0, ClosePolicy},
		{"no route", StateClose, errNetUnreach, fail, 0, CloseUnreachable},
		{"blackhole route", StateClose, errInval, fail, 0, CloseUnreachable},
		{"no source address", StateClose, errAddrNotAvail, fail, 0, CloseUnreachable},
		{"an end that nobody saw", StateClose, 0, est | FlagReported, 0, CloseUnknown},
		{"an end that nobody saw, after the other's FIN", StateClose, 0, est | FlagReported, uint8(FinRemote), CloseFinRemote},
		{"local close", StateFinWait2, 0, est, FinLocal, CloseFinLocal},
		{"local close, both FINs cross", StateClosing, 0, est, FinLocal, CloseFinLocal},
		{"remote close", StateLastAck, 0, est, FinRemote, CloseFinRemote},
		{"remote close, start unseen", StateLastAck, 0, FlagEstablished, 0, CloseFinRemote},
		{"unread data at close after our FIN", StateFinWait2, 0, est | FlagRstSent, FinLocal, CloseRstLocal},
		{"linger 0", StateEstablished, 0, est, 0, CloseRstLocal},
		{"linger 0 after the peer's FIN", StateCloseWait, 0, est, FinRemote, CloseRstLocal},
		{"reset by peer", StateEstablished, errConnReset, est | FlagRstReceived, 0, CloseRstRemote},
		{"reset after the peer's FIN", StateCloseWait, errPipe, est | FlagRstReceived, FinRemote, CloseRstRemote},
		{"orphan unanswered", StateFinWait1, errTimedOut, est, FinLocal, CloseTimeout},
		{"keep-alive", StateEstablished, errTimedOut, est | FlagKeepalive, 0, CloseKeepalive},
		{"ss -K", StateEstablished, errConnAborted, est, 0, CloseAborted},
		{"child never established", StateSynRecv, 0, fail, 0, CloseAborted},
		{"strange error", StateEstablished, 71, est, 0, CloseUnknown},
		{"reset, error taken by the program", StateEstablished, 0, est | FlagRstReceived, 0, CloseRstRemote},
	} {
		r := sample()
		r.LastState, r.SkErr, r.Flags, r.FirstFin, r.Role = uint8(c.state), c.errno, c.flags, c.fin, uint8(RoleClient)
		r.Kind = uint8(KindFailed)
		if c.flags&FlagEstablished != 0 {
			r.Kind = uint8(KindClosed)
		}
		if c.flags&FlagStartObserved == 0 {
			r.OpenedNs = 0
		}
		var e Event
		if err := Decode(r.Encode(), &e); err != nil || e.CloseReason != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, e.CloseReason, err, c.want)
		}
	}
	r := sample()
	r.Kind, r.Flags, r.LastState, r.LocalPort, r.TxSegs = uint8(KindFailed), FlagStartObserved, uint8(StateSynSent), 0, 0
	if got := r.closeReason(); got != CloseNoPort {
		t.Errorf("no port: %s", got)
	}
	r.LocalPort, r.TxSegs, r.SkErrSoft = 40000, 1, errHostUnreach
	if got := r.closeReason(); got != CloseUnreachable || r.errno() != errHostUnreach {
		t.Errorf("given up after an ICMP message: %s, %d", got, r.errno())
	}
	r.LastState = uint8(StateEstablished)
	if r.errno() != 0 {
		t.Errorf("an ICMP message during a connection became errno %d", r.errno())
	}
}

func BenchmarkDecode(b *testing.B) {
	r := sample()
	raw := r.Encode()
	tracker := NewTracker()
	var e Event
	b.ReportAllocs()
	for b.Loop() {
		if err := Decode(raw, &e); err != nil {
			b.Fatal(err)
		}
		tracker.Apply(&e)
	}
}
