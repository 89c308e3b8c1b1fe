package world

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"
)

// Call is what a client does on one connection: Rounds requests of Request bytes, each answered with Response bytes.
type Call struct {
	To netip.AddrPort `json:"to"`
	// Request and Response are payload bytes a round. A request of 1 to 15 bytes is sent as 16, the size of the header
	// that tells the server how much to read and answer; 0 means no round at all: connect, then close.
	Request  uint64 `json:"request"`
	Response uint64 `json:"response"`
	// Rounds is how many requests one connection carries; 0 means one.
	Rounds int `json:"rounds,omitempty"`
	// Pause lies between two rounds; under 10 s, after which a server gives a silent client up.
	Pause time.Duration `json:"pause,omitempty"`
	// Timeout bounds the connect; 0 leaves it to the kernel (three to four seconds in a world).
	Timeout time.Duration `json:"timeout,omitempty"`
	// ServerCloses asks the server to close first, after the last answer.
	ServerCloses bool `json:"server_closes,omitempty"`
}

// Job is a list of calls that one process makes.
type Job struct {
	// ID names the job in the ledger; unique in a world.
	ID    string `json:"id"`
	Calls []Call `json:"calls"`
	// Parallel is how many connections are open at once; 0 means one.
	Parallel int `json:"parallel,omitempty"`
	// Every repeats the job for ever, one call (the next of the list) each time.
	Every time.Duration `json:"every,omitempty"`
}

// Listen is one listening port, on all addresses of the host, IPv4 and IPv6.
type Listen struct {
	Port uint16 `json:"port"`
	// Calls are made, in order, for every request before it is answered: what makes a chain of services.
	Calls []Call `json:"calls,omitempty"`
}

// Entry is one line of the ledger: one end of one connection, written by the program that held it.
type Entry struct {
	Host   string         `json:"host"`
	Job    string         `json:"job,omitempty"` // of the client; "listen" at the server's end
	Role   Role           `json:"role"`
	Local  netip.AddrPort `json:"local"` // port 0 where the connect failed
	Remote netip.AddrPort `json:"remote"`
	Start  int64          `json:"start_ns"` // wall clock; the client's is before its connect
	End    int64          `json:"end_ns"`   // wall clock, after the program's close
	Tx     uint64         `json:"tx"`       // payload bytes the program wrote
	Rx     uint64         `json:"rx"`       // payload bytes the program read
	// Errno is 0 for a connection that ended as planned. Connected tells a failed connect from a later failure.
	Errno     syscall.Errno `json:"errno,omitempty"`
	Connected bool          `json:"connected"`
	Error     string        `json:"error,omitempty"`
}

// Role is the side of a connection an entry speaks for.
type Role string

// The two sides.
const (
	RoleClient Role = "client"
	RoleServer Role = "server"
)

// command is a line from the world to a workload process.
type command struct {
	Listen *Listen `json:"listen,omitempty"`
	Job    *Job    `json:"job,omitempty"`
	Quiet  bool    `json:"quiet,omitempty"` // end all jobs, report, go on serving
}

func doneListen(port uint16) string { return fmt.Sprintf("listen:%d", port) }

// report is a line from a workload process to the world.
type report struct {
	Entry *Entry `json:"entry,omitempty"`
	Done  string `json:"done,omitempty"` // the command that is finished: see doneListen; a job's ID; "quiet"
	Error string `json:"error,omitempty"`
}
