package e2e

import (
	"fmt"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tributary/proto/flowv1"
)

// oneLife wants both collectors of a store, which is embedded in a, to call its life by one name, also after the store's process and its collector were killed: it
// has synced what it acknowledged.
func (f *fleet) oneLife(a, b *member) {
	f.t.Helper()
	name := a.life()
	same := func(when string) {
		f.t.Helper()
		f.until("the store answers "+when, func() bool { _, err := f.sqlRows("SELECT 1"); return err == nil })
		time.Sleep(3 * time.Second) // b asks every 2 s
		for _, m := range []*member{a, b} {
			if got := m.life(); got != name || name == "" {
				f.t.Errorf("%s %s says %q, before it was %q", when, m.name, got, name)
			}
			if n := f.sample(m.metrics).sum("tributary_collector_ingest_store_epochs_total"); n > 0 {
				f.t.Errorf("%s %s has told of %v new lives", when, m.name, n)
			}
		}
	}
	same("at first")
	for _, engine := range a.program.children(f.t) {
		if err := syscall.Kill(engine, syscall.SIGKILL); err != nil {
			f.t.Fatal(err)
		}
	}
	same("after a kill of the store's process")
	a.program.kill()
	a.up()
	same("after a kill of its collector")
}

// life is what the collector tells exporters of the store.
func (m *member) life() string {
	m.f.t.Helper()
	conn, err := grpc.NewClient(m.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.f.t.Fatal(err)
	}
	defer conn.Close()
	stream, err := flowv1.NewCollectorClient(conn).Control(m.f.ctx)
	if err != nil {
		m.f.t.Fatal(err)
	}
	m.f.seq++
	asker := &simulated{id: fmt.Sprintf("life-%d", m.f.seq)}
	_ = stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: asker.hello()}})
	answer, err := stream.Recv()
	if err != nil {
		m.f.t.Fatal(err)
	}
	return answer.GetWelcome().GetStoreEpoch()
}
