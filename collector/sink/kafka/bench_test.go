package kafka

import (
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"tributary/deploy/dev/kafkatest"
	"tributary/proto/flow"
)

// BenchmarkEncode is the work on a batch of 1000 rows before kafka-go: attribution, message, digest.
func BenchmarkEncode(b *testing.B) {
	for _, format := range []string{FormatProtobuf, FormatJSON} {
		b.Run(format, func(b *testing.B) {
			batch := makeBatch(b, "node-1/7", 1, 1000)
			var e encoder
			if format == FormatJSON {
				e.json = newJSONEncoder()
			}
			b.ReportAllocs()
			for b.Loop() {
				e.reset()
				if err := e.encode(batch, time.Time{}, 1<<22); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/row")
		})
	}
}

// BenchmarkWrite is the whole sink against a real broker; cpu-ms/MB is this process's user and system time alone.
func BenchmarkWrite(b *testing.B) {
	broker := kafkatest.Start(b)
	for _, format := range []string{FormatProtobuf, FormatJSON} {
		b.Run(format, func(b *testing.B) {
			cfg := testConfig(b, broker)
			cfg.Format, cfg.Partitions = format, 8
			s, _ := newSink(b, cfg)
			s.Start(b.Context())
			var batches [16]*flow.Batch
			for i := range batches {
				batches[i] = makeBatch(b, string(rune('a'+i)), uint64(i+1), 1000)
			}
			done := func(error) {}
			s.Write(batches[0], done)
			flush(b, s, 20*time.Second)
			before := bytesWritten(b, s)
			b.ReportAllocs()
			b.ResetTimer()
			cpu := cpuTime(b)
			for i := range b.N {
				s.Write(batches[i%16], done)
			}
			flush(b, s, time.Minute)
			cpu = cpuTime(b) - cpu
			megabytes := (bytesWritten(b, s) - before) / 1e6
			b.ReportMetric(cpu.Seconds()*1e3/megabytes, "cpu-ms/MB")
			b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N)/1000, "cpu-ns/row")
		})
	}
}

func bytesWritten(b *testing.B, s *Sink) float64 {
	b.Helper()
	var m dto.Metric
	if err := s.metrics.bytes.Write(&m); err != nil {
		b.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDecode is what a consumer pays for a message of 1000 rows.
func BenchmarkDecode(b *testing.B) {
	var e encoder
	if err := e.encode(makeBatch(b, "node-1/7", 1, 1000), time.Time{}, 1<<22); err != nil {
		b.Fatal(err)
	}
	d, err := NewDecoder()
	if err != nil {
		b.Fatal(err)
	}
	var batch flow.Batch
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Decode(e.messages[0].value, &batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/row")
}
