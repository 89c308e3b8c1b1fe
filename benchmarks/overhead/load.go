package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	requestBytes, answerBytes = 100, 1000
	destinations              = 200 // so that ports in TIME_WAIT do not run out
	loadPort                  = 9000
)

// loadResult is what a run of the load achieved.
type loadResult struct {
	Connections int
	CPU         time.Duration // of the load's thread
	Wall        time.Duration
}

// rate is in connections a second of processor time.
func (r loadResult) rate() float64 { return float64(r.Connections) / r.CPU.Seconds() }

// plus is what both achieved.
func (r loadResult) plus(more loadResult) loadResult {
	return loadResult{r.Connections + more.Connections, r.CPU + more.CPU, r.Wall + more.Wall}
}

// runLoad is the whole of the load's process: it makes connections on one processor for d, at most perSecond of them a second (0: as fast
// as it can), and prints its result.
func runLoad(processor, perSecond int, d time.Duration) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(processor)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("stay on processor %d: %w", processor, err)
	}
	listener, err := prepare()
	if err != nil {
		return err
	}
	buf := make([]byte, answerBytes)
	result := loadResult{}
	began, cpu := time.Now(), threadTime()
	for time.Since(began) < d {
		if perSecond > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(result.Connections) * time.Second / time.Duration(perSecond))))
		}
		if err := connection(listener, byte(1+result.Connections%destinations), buf); err != nil {
			return err
		}
		result.Connections++
	}
	result.CPU, result.Wall = threadTime()-cpu, time.Since(began)
	return json.NewEncoder(os.Stdout).Encode(result)
}

// prepare makes a network namespace for this thread and listens in it.
func prepare() (listener int, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return 0, fmt.Errorf("make a network namespace: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return 0, err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return 0, err
	}
	for name, value := range map[string]string{"ip_local_port_range": "1024 65535", "tcp_max_tw_buckets": "10000"} {
		if err := os.WriteFile("/proc/thread-self/root/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return 0, err
		}
	}
	if listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	if err := unix.Bind(listener, &unix.SockaddrInet4{Port: loadPort}); err != nil {
		return 0, err
	}
	return listener, unix.Listen(listener, 128)
}

// establish opens a connection and accepts it. The system calls are raw ones: the Go scheduler, told of each, would now and then put this
// thread to sleep between them.
func establish(listener int, destination byte) (client, server uintptr, err error) {
	to := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: loadPort>>8 | loadPort&0xff<<8, Addr: [4]byte{127, 0, 0, destination}}
	client, err = call("socket", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	if _, err := call("connect", unix.SYS_CONNECT, client, uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to)); err != nil {
		return 0, 0, err
	}
	server, err = call("accept", unix.SYS_ACCEPT, uintptr(listener), 0, 0)
	return client, server, err
}

// connection is one whole life: connect, accept, a request, an answer, both closed.
func connection(listener int, destination byte, buf []byte) error {
	client, server, err := establish(listener, destination)
	if err != nil {
		return err
	}
	at := uintptr(unsafe.Pointer(&buf[0]))
	for _, step := range []struct{ from, to, n uintptr }{{client, server, requestBytes}, {server, client, answerBytes}} {
		if _, err := call("write", unix.SYS_WRITE, step.from, at, step.n); err != nil {
			return err
		}
		if n, err := call("read", unix.SYS_READ, step.to, at, answerBytes); err != nil || n != step.n {
			return fmt.Errorf("read %d of %d bytes: %w", n, step.n, err)
		}
	}
	if _, err := call("close", unix.SYS_CLOSE, client, 0, 0); err != nil {
		return err
	}
	_, err = call("close", unix.SYS_CLOSE, server, 0, 0)
	return err
}

func call(name string, number, a, b, c uintptr) (uintptr, error) {
	result, _, errno := unix.RawSyscall(number, a, b, c)
	if errno != 0 {
		return 0, fmt.Errorf("%s: %w", name, errno)
	}
	return result, nil
}

func threadTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // cannot fail for the own thread
	return time.Duration(ts.Nano())
}
