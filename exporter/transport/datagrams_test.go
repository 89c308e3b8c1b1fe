package transport

import (
	"log/slog"
	"testing"
	"time"

	"tributary/proto/datagram"
	"tributary/proto/flowv1"
)

// A collector goes on with the book that the exporter names, and begins a new one for any other: so the exporter names the one that it counts in.
func TestTheBookIsNamed(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	c := &Config{Datagrams: &DatagramConfig{Address: "127.0.0.1:9"}, ProbeEvery: time.Minute}
	d := newDatagrams(c, newRoute([]Way{GRPC}, quiet), quiet)
	defer d.close()
	d.want(true)
	named := ""
	for _, book := range []string{"of A", "of A", "of B", "of A"} {
		var asked *flowv1.DatagramRequest
		for _, m := range d.tick() {
			asked = m.GetDatagramRequest()
		}
		if asked == nil || asked.GetBook() != named {
			t.Fatalf("asked for %v, want %q", asked, named)
		}
		d.keyed(&flowv1.DatagramKey{KeyId: 1, Key: make([]byte, datagram.KeyBytes), Book: book})
		d.hush("the stream has ended")
		named = book
	}
}
