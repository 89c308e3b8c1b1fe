package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/ipv4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"tributary/collector/ingest"
	"tributary/collector/ingest/datagrams"
	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/datagram"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/listen"
)

const (
	udpSenders = 4
	udpRound   = 3 * time.Second
	udpRounds  = 5
	udpRows    = 28 // a full datagram
	udpSockets = 2
	udpBurst   = 64 // datagrams a system call of a sender
)

// The two measurements: opened datagrams are thrown away, or taken in as batches, as the front door does.
const (
	udpOpen = "udp-open"
	udpTake = "udp-take"
)

// runReceiver is the other process: it prints its address and a line a key, and then, for each line it reads, how many datagrams it has opened.
func runReceiver(mode string) error {
	var opened atomic.Uint64
	take := func(*datagrams.Book, int, []byte) { opened.Add(1) }
	grant, serve, err := receiver(mode, &opened, take)
	if err != nil {
		return err
	}
	conns, err := listen.UDP(context.Background(), "", "127.0.0.1:0", udpSockets)
	if err != nil {
		return err
	}
	for _, c := range conns {
		if err := c.SetReadBuffer(8 << 20); err != nil {
			return err
		}
	}
	go func() { _ = serve(conns...) }() // until the process ends
	fmt.Println(conns[0].LocalAddr())
	for i := range udpSenders {
		key, err := grant(fmt.Sprint("e", i))
		if err != nil {
			return err
		}
		fmt.Println(key.GetKeyId(), hex.EncodeToString(key.GetKey()))
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(opened.Load())
	}
	return nil
}

type grantKey func(exporter string) (*flowv1.DatagramKey, error)

// receiver makes what is measured.
func receiver(mode string, opened *atomic.Uint64, take datagrams.Take) (grantKey, func(...*net.UDPConn) error, error) {
	quiet := slog.New(slog.DiscardHandler)
	if mode == udpOpen {
		s, err := datagrams.New(take, prometheus.NewRegistry(), quiet)
		if err != nil {
			return nil, nil, err
		}
		return func(exporter string) (*flowv1.DatagramKey, error) {
			_, key, err := s.Grant(datagrams.Sender{ExporterID: exporter, Host: exporter}, 1, "")
			return key, err
		}, s.Serve, nil
	}
	book, err := session.New(1000, ownership.New(ownership.Config{}), nil)
	if err != nil {
		return nil, nil, err
	}
	var door *ingest.Server
	done := sinkFunc(func(b *flow.Batch) {
		opened.Add(1)
		door.Done(b)
	})
	door, err = ingest.New(ingest.Config{CollectorID: "c", Datagrams: true}, book, done, func() {}, prometheus.NewRegistry(), quiet)
	return func(exporter string) (*flowv1.DatagramKey, error) { return keyOf(door, exporter) }, func(c ...*net.UDPConn) error { return door.ServeDatagrams(c...) }, err
}

// keyOf asks for a key as an exporter does.
func keyOf(door *ingest.Server, exporter string) (*flowv1.DatagramKey, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { _ = door.Serve(l) }() // until the process ends
	stream, err := plainControl(l.Addr().String())
	if err != nil {
		return nil, err
	}
	for _, m := range []*flowv1.ControlRequest{
		{Message: &flowv1.ControlRequest_Hello{Hello: hello(exporter)}},
		{Message: &flowv1.ControlRequest_DatagramRequest{DatagramRequest: &flowv1.DatagramRequest{Epoch: 1}}},
	} {
		if err := stream.Send(m); err != nil {
			return nil, err
		}
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if key := m.GetDatagramKey(); key != nil {
			return key, nil
		}
	}
}

func plainControl(address string) (flowv1.Collector_ControlClient, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return flowv1.NewCollectorClient(conn).Control(context.Background())
}

// measureUDP prints how many datagrams the other process receives and opens in a second of its processors' time.
func measureUDP(ctx context.Context) error {
	for _, mode := range []string{udpOpen, udpTake} {
		rates, lost, err := udpRates(ctx, mode)
		if err != nil {
			return fmt.Errorf("%s: %w", mode, err)
		}
		slices.Sort(rates)
		what := map[string]string{udpOpen: "received and opened", udpTake: "received, opened and taken in as batches"}[mode]
		fmt.Printf("UDP, %s: %.0f datagrams a CPU-second (median of %d rounds, %.0f to %.0f; %d rows and %d bytes each; %.0f%% of what was sent never came)\n",
			what, rates[len(rates)/2], len(rates), rates[0], rates[len(rates)-1], udpRows, len(udpBatch()), 100*lost)
	}
	return nil
}

func udpRates(ctx context.Context, mode string) (rates []float64, lost float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), doorEnv+"="+mode)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	var sending sync.WaitGroup
	defer func() { _ = cmd.Wait() }() // it ends with its input
	defer in.Close()
	defer sending.Wait()
	defer cancel()
	lines := bufio.NewReader(out)
	address, err := lines.ReadString('\n')
	if err != nil {
		return nil, 0, err
	}
	var sent atomic.Uint64
	for range udpSenders {
		var id uint64
		var secret string
		if _, err := fmt.Fscanln(lines, &id, &secret); err != nil {
			return nil, 0, err
		}
		sender, err := newUDPSender(strings.TrimSpace(address), id, secret)
		if err != nil {
			return nil, 0, err
		}
		sending.Go(func() { sender.run(ctx, &sent) })
	}
	opened := func() (n uint64) {
		if _, err = io.WriteString(in, "\n"); err == nil {
			_, err = fmt.Fscanln(lines, &n)
		}
		return n
	}
	time.Sleep(udpRound / 3)
	all, first := sent.Load(), opened()
	for range udpRounds {
		n, cpu := opened(), cpuOf(cmd.Process.Pid)
		time.Sleep(udpRound)
		n, cpu = opened()-n, cpuOf(cmd.Process.Pid)-cpu
		if err != nil || n == 0 {
			return nil, 0, errors.Join(err, fmt.Errorf("%d datagrams were opened", n))
		}
		rates = append(rates, float64(n)/cpu.Seconds())
	}
	return rates, 1 - float64(opened()-first)/float64(sent.Load()-all), err
}

// udpBatch is a batch as an exporter puts it into a datagram.
func udpBatch() []byte {
	b := sealed("", 1, udpRows)
	b.Host = ""
	out, err := proto.Marshal(b)
	if err != nil {
		panic(err) // it is ours
	}
	return out
}

type udpSender struct {
	conn *net.UDPConn
	key  *datagram.Key
	id   uint64
}

func newUDPSender(address string, id uint64, secret string) (*udpSender, error) {
	raw, err := hex.DecodeString(secret)
	if err != nil {
		return nil, err
	}
	key, err := datagram.NewKey(raw)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("udp", address)
	if err != nil {
		return nil, err
	}
	return &udpSender{conn.(*net.UDPConn), key, id}, nil
}

// run sends as fast as it can.
func (s *udpSender) run(ctx context.Context, sent *atomic.Uint64) {
	defer s.conn.Close()
	batch, out := udpBatch(), ipv4.NewPacketConn(s.conn)
	messages := make([]ipv4.Message, udpBurst)
	for i := range messages {
		messages[i].Buffers = [][]byte{nil}
	}
	for seq := uint64(1); ctx.Err() == nil; {
		for i := range messages {
			b, err := s.key.Seal(messages[i].Buffers[0][:0], datagram.Header{Rows: udpRows, Epoch: 1, KeyID: s.id, Seq: seq}, batch)
			if err != nil {
				return
			}
			messages[i].Buffers[0] = b
			seq++
		}
		for rest := messages; len(rest) > 0 && ctx.Err() == nil; {
			n, err := out.WriteBatch(rest, 0)
			if err != nil {
				break // the kernel has no room: they are lost
			}
			sent.Add(uint64(n))
			rest = rest[n:]
		}
	}
}
