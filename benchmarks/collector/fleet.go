package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// fleetSpec is what the fleet's process is told, as one line of JSON. After it come the words of order: go, stop.
type fleetSpec struct {
	Collector string
	CA        string
	Senders   int
	BatchRows int
	Zstd      bool
	MaxRows   int // sent and not acknowledged, over all senders
	Rate      int // flows a second over all senders; 0: as fast as acknowledgements come
}

// fleetReport is its last line.
type fleetReport struct {
	Sent, Acked, Batches uint64
	Distinct             int
	AckSeconds           float64 // mean from a batch's sending to its acknowledgement
	Error                string
}

// distinctRows is how many different flows a round of batches has, at the least.
const distinctRows = 128 << 10

// runFleet is the process of all exporters: every host claims and sends watermarks, the first Senders of them send flows.
func runFleet(ctx context.Context, orders io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(orders)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return errors.New("no orders")
	}
	var spec fleetSpec
	if err := json.Unmarshal(lines.Bytes(), &spec); err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fleet, err := assemble(ctx, &spec)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "claimed")
	if !lines.Scan() {
		return errors.New("no order to go")
	}
	stop := make(chan struct{})
	pace := func(context.Context, int) error { return nil }
	if spec.Rate > 0 {
		pace = rate.NewLimiter(rate.Limit(spec.Rate), max(spec.Rate/20, spec.BatchRows)).WaitN
	}
	var sending sync.WaitGroup
	for _, e := range fleet[:spec.Senders] {
		sending.Go(func() { e.send(ctx, stop, pace) })
	}
	stopped := lines.Scan()
	close(stop)
	for _, e := range fleet {
		e.mu.Lock()
		e.changed.Broadcast()
		e.mu.Unlock()
	}
	if !stopped {
		return errors.New("no order to stop")
	}
	time.AfterFunc(30*time.Second, cancel)
	sending.Wait()
	return json.NewEncoder(out).Encode(report(fleet))
}

func report(fleet []*exporter) fleetReport {
	var r fleetReport
	for _, e := range fleet {
		e.mu.Lock()
		r.Sent += e.sent
		r.Acked += e.acked
		r.Batches += uint64(len(e.sizes))
		r.AckSeconds += e.waited.Seconds()
		for _, t := range e.templates {
			r.Distinct += t.rows
		}
		if e.err != nil && r.Error == "" {
			r.Error = e.err.Error()
		}
		e.mu.Unlock()
	}
	r.AckSeconds /= float64(max(1, r.Batches))
	return r
}

// assemble connects all exporters, prepares the batches of those that send, and returns when all claims are under way.
func assemble(ctx context.Context, spec *fleetSpec) ([]*exporter, error) {
	trust, err := credentials.NewClientTLSFromFile(spec.CA, "")
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	world := makeWorld()
	var fleet []*exporter
	var claimed sync.WaitGroup
	for host := range hosts {
		conn, err := grpc.NewClient(spec.Collector, grpc.WithTransportCredentials(trust))
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		context.AfterFunc(ctx, func() { conn.Close() })
		e := newExporter(conn, host)
		if host < spec.Senders {
			e.maxRows = max(spec.MaxRows/spec.Senders, 2*spec.BatchRows)
			if err := e.prepare(world, spec.BatchRows, max(distinctRows/spec.Senders, 8*spec.BatchRows), spec.Zstd); err != nil {
				return nil, err
			}
		}
		fleet = append(fleet, e)
	}
	for _, e := range fleet {
		claimed.Add(1)
		go e.claim(ctx, world, &claimed)
	}
	claimed.Wait()
	return fleet, nil
}

func fleetMain() error { return runFleet(context.Background(), os.Stdin, os.Stdout) }
