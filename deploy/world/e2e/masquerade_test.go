package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tributary/deploy/world"
	"tributary/service/testenv"
)

var gatewayHosts = []world.Host{
	{Name: "gate", Number: 11, Workload: "e2e/gate", Instance: "gate-1"},
	{Name: "box", Number: 12, Workload: "e2e/box", Instance: "box-1"},
	{Name: "back", Number: 13, Workload: "e2e/back", Instance: "back-1"},
}

// TestMasquerade: a host that claims its whole address lets another one's connections out under it. From the first of them on the server must not call
// those after the host; the host's own connections have their name by their other record. The host tracks connections before it translates any, so that lists of them are
// made only every few seconds.
func TestMasquerade(t *testing.T) {
	testenv.NeedCommand(t, "nft", "apt-get install nftables")
	r := newRig(t, gatewayHosts, false)
	if err := r.procs["back"].Listen(r.ctx, world.Listen{Port: portBack}); err != nil {
		t.Fatal(err)
	}
	back := r.world.IPv4("back")
	r.shell("box", "", "ip", "link", "add", "m0", "type", "veth", "peer", "name", "m0", "netns", r.world.NamespacePath("gate"))
	r.shell("gate", "", "sh", "-c", "ip addr add 192.168.250.1/24 dev m0 && ip link set m0 up && echo 1 > /proc/sys/net/ipv4/ip_forward")
	r.shell("box", "", "sh", "-c", fmt.Sprintf("ip addr add 192.168.250.2/24 dev m0 && ip link set m0 up && ip route add %s/32 via 192.168.250.1", back))
	to := []world.Call{{To: netip.AddrPortFrom(back, portBack), Request: 100, Response: 1_000}}
	r.shell("gate", "table inet seen { chain out { type filter hook output priority 0; ct state new accept\n}\n}\n", "nft", "-f", "-")
	r.calling("gate", to)
	ofGate := fmt.Sprintf(`role = 'server' AND local_workload = 'e2e/back' AND remote_addr = toIPv6('%s') AND remote_workload`, r.world.IPv4("gate"))
	r.waitFor(0, soon, `SELECT toUInt64(count() < 100) FROM flows WHERE kind = 'closed' AND `+ofGate+` = 'e2e/gate' AND `+r.inWorld())

	r.shell("gate", "table ip out { chain post { type nat hook postrouting priority 100; policy accept\noifname != \"m0\" masquerade\n}\n}\n", "nft", "-f", "-")
	began := time.Now().UnixNano()
	r.calling("box", to)
	since := fmt.Sprintf(` AND toUnixTimestamp64Nano(start_time_ns) > %d`, began)
	r.waitFor(0, soon, `SELECT toUInt64(count() < 100) FROM flows WHERE kind = 'closed' AND `+ofGate+` = '' AND `+r.inWorld()+since)
	if n := r.number(`SELECT count() FROM flows WHERE ` + ofGate + ` != '' AND ` + r.inWorld() + since); n != 0 {
		t.Errorf("%d connections of another host are called after the gateway", n)
	}
	r.calling("gate", to)
	r.waitFor(0, soon, `SELECT toUInt64(countIf(remote_evidence = 'mirror') < 100) + countIf(remote_evidence = 'claim') FROM flows WHERE kind = 'closed' AND `+ofGate+` = 'e2e/gate' AND `+r.inWorld()+since)
}

// calling lets a host make connections for a while.
func (r *rig) calling(host string, calls []world.Call) {
	r.t.Helper()
	p := r.procs[host]
	if err := p.Begin(world.Job{ID: host, Every: 5 * time.Millisecond, Parallel: 4, Calls: calls}); err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := p.Quiet(r.ctx); err != nil {
		r.t.Fatal(err)
	}
}

// shell runs a command in a host's network namespace.
func (r *rig) shell(host, stdin string, command ...string) {
	r.t.Helper()
	err := r.world.In(host, func() error {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin, cmd.Env = strings.NewReader(stdin), os.Environ()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", command, err, out)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}
