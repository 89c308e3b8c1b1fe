package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tributary/deploy/world"
	"tributary/service/testenv"
)

// TestTranslatedAddresses: gate is a host with a container, box: it lets box's connections out under its own address, and leads a port of its own to box.
// back is another host, whose exporter knows nothing of the first one's. Nobody claims what they have of each other, and both ends of each connection
// are named: box's records say what box is called beyond its host.
func TestTranslatedAddresses(t *testing.T) {
	testenv.NeedCommand(t, "nft", "apt-get install nftables")
	r := bareRig(t, false)
	r.build([]world.Host{{Name: "gate", Number: 11}, {Name: "box", Number: 12}, {Name: "back", Number: 13}})
	gate, back := r.world.IPv4("gate"), r.world.IPv4("back")
	const published = 8081
	r.shell("box", "", "ip", "link", "add", "m0", "type", "veth", "peer", "name", "m0", "netns", r.world.NamespacePath("gate"))
	r.shell("gate", "", "sh", "-c", "ip addr add 192.168.250.1/24 dev m0 && ip link set m0 up && echo 1 > /proc/sys/net/ipv4/ip_forward")
	r.shell("box", "", "sh", "-c", fmt.Sprintf("ip addr add 192.168.250.2/24 dev m0 && ip link set m0 up && ip route add %s/32 via 192.168.250.1", back))
	r.shell("gate", fmt.Sprintf(`table ip host {
chain pre { type nat hook prerouting priority -100; policy accept
ip daddr %s tcp dport %d dnat to 192.168.250.2:%d
}
chain post { type nat hook postrouting priority 100; policy accept
oifname != "m0" masquerade
}
}
`, gate, published, portBack), "nft", "-f", "-")
	r.wayOut("gate")
	r.startCollector()
	r.startExporter("--insecure", "--identity", r.oneWorkload("back"), "--filter-keep", "workload=e2e/back")
	r.startAway("gate", "back", "--identity", r.oneWorkload("box"), "--filter-keep", "workload=e2e/box")
	for _, host := range []string{"box", "back"} {
		if err := r.procs[host].Listen(r.ctx, world.Listen{Port: portBack}); err != nil {
			t.Fatal(err)
		}
		r.waitFor(1, soon, `SELECT toUInt64(count() > 0) FROM ownership WHERE workload = 'e2e/`+host+`'`)
	}
	time.Sleep(2 * time.Second) // until what was claimed has been vouched for
	r.calling("box", []world.Call{{To: netip.AddrPortFrom(back, portBack), Request: 100, Response: 1_000}})
	r.calling("back", []world.Call{{To: netip.AddrPortFrom(gate, published), Request: 100, Response: 1_000}})

	known := fmt.Sprintf(`peer_observed = 'yes' AND local_addr = toIPv6('192.168.250.2') AND nat_local_addr = toIPv6('%s')`, gate)
	r.named("e2e/back", "server", "e2e/box", fmt.Sprintf(`remote_evidence = 'mirror' AND remote_addr = toIPv6('%s') AND nat_local_port = 0`, gate))
	r.named("e2e/back", "client", "e2e/box", fmt.Sprintf(`remote_evidence = 'mirror' AND remote_addr = toIPv6('%s') AND remote_port = %d`, gate, published))
	r.named("e2e/box", "client", "e2e/back", known)
	r.named("e2e/box", "server", "e2e/back", fmt.Sprintf(known+` AND nat_local_port = %d AND local_port = %d`, published, portBack))
	right := fmt.Sprintf(`client_workload = 'e2e/back' AND server_workload = 'e2e/box' AND server_port = %d OR client_workload = 'e2e/box' AND server_workload = 'e2e/back' AND server_port = %d`,
		published, portBack)
	r.waitFor(0, soon, `SELECT toUInt64(countIf((`+right+`) AND class = 'both') != 2) + countIf(NOT (`+right+`) OR class != 'both') FROM
		(SELECT client_workload, server_workload, server_port, class FROM edges_1m WHERE client_workload != '' AND server_workload != '' GROUP BY ALL)`)
}

// named waits until a hundred ends of connections have their peer's name, and are as they should be. None has another name; a busy machine may leave some without one.
func (r *rig) named(local, role, remote, right string) {
	r.t.Helper()
	meant := fmt.Sprintf(`kind = 'closed' AND role = '%s' AND local_workload = '%s' AND remote_workload `, role, local)
	r.waitFor(0, 60*time.Second, `SELECT toUInt64(countIf(`+right+`) < 100) FROM flows WHERE `+meant+`= '`+remote+`' AND `+r.inWorld())
	if n := r.number(`SELECT count() FROM flows WHERE ` + meant + `NOT IN ('', '` + remote + `')`); n != 0 {
		r.t.Errorf("%d %s records of %s name somebody else than %s", n, role, local, remote)
	}
}

// wayOut lets an exporter in a host's network namespace reach the collector, which has not started yet.
func (r *rig) wayOut(host string) {
	r.t.Helper()
	here, there := fmt.Sprintf("198.18.%d.1", r.world.Run()), fmt.Sprintf("198.18.%d.2", r.world.Run())
	link := fmt.Sprintf("trb%d-up", r.world.Run())
	script := fmt.Sprintf("ip link add %[1]s type veth peer name up0 netns %[2]s && ip addr add %[3]s/30 dev %[1]s && ip link set %[1]s up", link, r.world.NamespacePath(host), here)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil { // the link ends with the host's namespace
		r.t.Fatalf("%v: %s", err, out)
	}
	r.shell(host, "", "sh", "-c", "ip addr add "+there+"/30 dev up0 && ip link set up0 up")
	_, port, err := net.SplitHostPort(r.ingest)
	if err != nil {
		r.t.Fatal(err)
	}
	r.ingest = net.JoinHostPort(here, port)
	r.collectorArgs = append(r.collectorArgs, "--insecure")
}

// oneWorkload writes the identity file of an exporter that knows one host's workload.
func (r *rig) oneWorkload(host string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, host+".yaml")
	text := fmt.Sprintf("networks: [{cidr: %s/24, network: %s}]\nworkloads:\n  - {workload: e2e/%s, instance: %s-1, netns: %s}\n",
		r.world.IPv4("back"), r.world.Network(), host, host, r.world.NamespacePath(host))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// startAway starts a second exporter, on a host as on a machine of its own: in its network namespace, and with a view of processes and mounts that hides another host.
func (r *rig) startAway(host, hidden string, args ...string) {
	r.t.Helper()
	p := &program{name: "tributary-exporter-" + host, log: filepath.Join(r.dir, host+".log"), gone: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		r.t.Fatal(err)
	}
	defer out.Close()
	args = append([]string{
		filepath.Join(programs, "tributary-exporter"), "run", "--scope", "host", "--collector", r.ingest, "--insecure",
		"--spool-dir", filepath.Join(r.dir, "spool-"+host), "--socket", filepath.Join(r.dir, host+".sock"),
	}, args...)
	script := "mount --make-rprivate / && mount -t proc proc /proc && umount " + r.world.NamespacePath(hidden) + " && exec " + strings.Join(args, " ")
	p.cmd = exec.Command("sh", "-c", script)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if err := r.world.In(host, p.cmd.Start); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.gone)
	}()
	r.t.Cleanup(func() { p.end(r.t) })
}
