package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// bar is what issue 3 asks of batches of 1000 with both sinks on.
const (
	barFlows  = 250_000
	barAllocs = 1
	barBatch  = 1000
)

func printTable(w io.Writer, results []*result) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "senders\tbatch\tcodec\tflows/CPU-s\tCPU ns/flow\tallocs/flow\tB alloc/flow\tflows/s\tnamed\thold s\tack s\twire B\tstore B\tbus B\trows/insert\tGC/s\tpeak MiB\t")
	for _, r := range results {
		fmt.Fprintf(t, "%d\t%d\t%s\t%.0f\t%.0f\t%.3f\t%.0f\t%.0f\t%.4f\t%.2f\t%.2f\t%.1f\t%.1f\t%.1f\t%.0f\t%.1f\t%d\t\n", r.Senders, r.BatchRows, r.Codec,
			r.FlowsPerCPUSecond, 1e9/r.FlowsPerCPUSecond, r.AllocsPerFlow, r.AllocBytesPerFlow, r.FlowsPerSecond, r.NamedShare, r.HoldSeconds, r.AckSeconds,
			r.WireBytesPerFlow, r.StoreBytesPerFlow, r.BusBytesPerFlow, r.BlockRows, r.GCPerSecond, r.PeakBytes>>20)
	}
	_ = t.Flush()
	for _, r := range results {
		if r.BatchRows != barBatch {
			continue
		}
		verdict := "reaches"
		if r.FlowsPerCPUSecond < barFlows || r.AllocsPerFlow > barAllocs {
			verdict = "misses"
		}
		fmt.Fprintf(w, "%s: %s the bar of %d flows a CPU-second and %d allocation a flow\n", r.configuration, verdict, barFlows, barAllocs)
	}
}

func printJSON(w io.Writer, results []*result) error {
	enc := json.NewEncoder(w)
	for _, r := range results {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}
