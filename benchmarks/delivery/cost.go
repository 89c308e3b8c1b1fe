package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"tributary/collector/ingest"
	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/exporter/transport"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

const (
	doorEnv     = "BENCH_DELIVERY_DOOR"
	costSenders = 4
	costRows    = 1000
	costRound   = 3 * time.Second
	costRounds  = 5
	underWay    = 16 // batches a sender has sealed and not acknowledged
)

// runDoor is the other process: the collector's front door with TLS on both listeners, which acknowledges what comes at once.
func runDoor() error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	var door *ingest.Server
	done := sinkFunc(func(b *flow.Batch) { door.Done(b) })
	book, err := session.New(1000, ownership.New(ownership.Config{}), nil)
	if err != nil {
		return err
	}
	door, err = ingest.New(ingest.Config{CollectorID: "c", Credentials: credentials.NewTLS(config)}, book, done, func() {},
		prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	var addresses []string
	for _, serve := range []func(net.Listener) error{door.Serve, func(l net.Listener) error { return door.ServeHTTP(l, config) }} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addresses = append(addresses, l.Addr().String())
		go func() { _ = serve(l) }() // until the process ends
	}
	fmt.Println(strings.Join(addresses, " "))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

type sinkFunc func(*flow.Batch)

// Add implements ingest.Pipeline.
func (f sinkFunc) Add(b *flow.Batch) { f(b) }

// measureCost prints what a row costs the front door on both ways, in rounds that take turns.
func measureCost(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), doorEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Wait() }() // it ends with its input
	defer in.Close()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("the front door: %w", err)
	}
	grpcAddress, httpsAddress, _ := strings.Cut(strings.TrimSpace(line), " ")
	costs := map[transport.Way][]float64{}
	for range costRounds {
		for _, way := range []transport.Way{transport.GRPC, transport.HTTPS} {
			ns, err := costOf(ctx, cmd.Process.Pid, way, grpcAddress, httpsAddress)
			if err != nil {
				return fmt.Errorf("%s: %w", way, err)
			}
			costs[way] = append(costs[way], ns)
		}
	}
	for _, way := range []transport.Way{transport.GRPC, transport.HTTPS} {
		slices.Sort(costs[way])
	}
	g, h := costs[transport.GRPC][costRounds/2], costs[transport.HTTPS][costRounds/2]
	fmt.Printf("front door, CPU a row with TLS: gRPC %.0f ns, HTTPS %.0f ns: %.2f times (medians of %d rounds; gRPC %.0f to %.0f, HTTPS %.0f to %.0f)\n",
		g, h, h/g, costRounds, costs[transport.GRPC][0], costs[transport.GRPC][costRounds-1], costs[transport.HTTPS][0], costs[transport.HTTPS][costRounds-1])
	return nil
}

// costOf runs senders for a round and returns the door's CPU ns a row.
func costOf(ctx context.Context, pid int, way transport.Way, grpcAddress, httpsAddress string) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var fleet []*exporter
	for i := range costSenders {
		id := fmt.Sprintf("%s-%d-%d", way, i, time.Now().UnixNano())
		e, err := newCostExporter(id, way, grpcAddress, httpsAddress)
		if err != nil {
			return 0, err
		}
		fleet = append(fleet, e)
		running.Go(func() { _ = e.transport.Run(ctx) }) // until the end
		running.Go(func() { e.fill(ctx, sealed(id, 1, costRows)) })
	}
	time.Sleep(costRound / 3) // connected and warm
	rows, cpu := acked(fleet), cpuOf(pid)
	time.Sleep(costRound)
	rows, cpu = acked(fleet)-rows, cpuOf(pid)-cpu
	if rows == 0 {
		return 0, fmt.Errorf("nothing was acknowledged: %+v", fleet[0].spool.Stats())
	}
	return float64(cpu.Nanoseconds()) / float64(rows), nil
}

func newCostExporter(id string, way transport.Way, grpcAddress, httpsAddress string) (*exporter, error) {
	c := spool.Default()
	c.Run, c.Host = id, id
	log := slog.New(slog.DiscardHandler)
	kept, err := spool.New(c, prometheus.NewRegistry(), log)
	if err != nil {
		return nil, err
	}
	client := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} // the door's certificate is its own, made for this run
	t, err := transport.New(transport.Config{
		Address: grpcAddress, Credentials: credentials.NewTLS(client), Order: []transport.Way{way},
		HTTPS: &transport.HTTPSConfig{URL: &url.URL{Scheme: "https", Host: httpsAddress}, TLS: client.Clone},
		Spool: kept, ExporterID: id, Host: id, Claims: nobody{}, Counters: func() []*flowv1.Counter { return nil },
	}, prometheus.NewRegistry(), log)
	return &exporter{spool: kept, transport: t}, err
}

// fill keeps batches under way: the same one under the next batch_seq, so that sealing does not share the processors.
func (e *exporter) fill(ctx context.Context, b *flowv1.Batch) {
	for seq := uint64(1); ctx.Err() == nil; {
		if e.spool.Stats().Pending.Batches >= underWay {
			time.Sleep(200 * time.Microsecond)
			continue
		}
		b.BatchSeq = seq
		e.transport.Add(proto.CloneOf(b))
		seq++
	}
}

func acked(fleet []*exporter) (rows uint64) {
	for _, e := range fleet {
		rows += e.spool.Stats().Acked.Rows
	}
	return rows
}

const ticksASecond = 100 // of /proc, whatever the kernel's own

// cpuOf reads user and system time of a process.
func cpuOf(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * time.Second / ticksASecond
}
