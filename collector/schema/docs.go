package schema

import (
	"fmt"
	"strings"
)

const recordHead = `# The record

One connection gives one ` + "`closed`" + ` record at its end, ` + "`active`" + ` records while it lives, or one ` + "`failed`" + ` record if it never was
established. Counters are differences since the record before, so sums over a connection's records are exact. A row is unique by
(` + "`exporter_id`, `flow_id`, `record_seq`" + `); the highest ` + "`version`" + ` is the answer, and the view ` + "`flows`" + ` shows only that one. Opened
connections are the rows with ` + "`start_observed`" + ` and ` + "`record_seq`" + ` 0.

The names are the same in the protocol, in Kafka's JSON and in ClickHouse, in this order. The unit is the name's suffix.
This page is made from the table of fields in collector/schema by ` + "`go test ./collector/schema -update`" + `.

| field | ClickHouse type | missing | meaning | known from |
|---|---|---|---|---|
`

const recordTail = `
## Where a record is not what ss or tcpdump show

Each line was met in a test that compared the record with the socket's own counters and with the packets.

* What a sockmap program hands from one socket to another passes TCP by: neither ` + "`ss`" + ` nor ` + "`tx_bytes`" + ` counts it.
* Data that comes after the program has closed its socket, and after the peer has acknowledged the FIN, is answered with a reset that belongs to no socket:
  the record says ` + "`fin_local`" + ` and no ` + "`rst_sent`" + `, the peer's says ` + "`rst_remote`" + `. Before that, or if the program has only shut it down both ways, it is ` + "`rst_local`" + `
  on this side; its ` + "`errno`" + ` is 104, because the kernel treats its own reset like one that came in. If a copy of data that was received before comes
  after our FIN, and then a reset of the peer's, that looks the same and is told as ` + "`rst_local`" + ` too.
* ` + "`tx_segs` and `rx_segs`" + ` are the socket's: without a server's SYN-ACK, without resets that we send, and without what is sent and received in TIME_WAIT (on the side that closes first
  the peer's FIN and the last acknowledgement). A server's ` + "`rx_segs`" + ` has the SYN.
* Fast Open: a server's connection that ends before its handshake does is ` + "`failed`" + `, although a program may have accepted it and read (` + "`accepted`, `rx_bytes`" + `); its start is
  then the moment when it was closed. A client with TCP_FASTOPEN_CONNECT starts with connect; its SYN goes out with the first write, and until then ` + "`tx_segs`" + ` is 0.
* MPTCP: each subflow is a connection. Those that the kernel adds have no ` + "`pid`" + `, and ` + "`accepted`" + ` of a server's is mostly false: the program has another socket.
* A socket that is connected a second time (connect to AF_UNSPEC between) keeps ` + "`min_rtt_us`" + ` for the kernel's window. If it is given up while it waits, the errno of an ICMP message
  for the attempt before may be told; if it times out a second time and the program never took the first error, the second is told as ` + "`rst_local`" + `. If it listens
  instead, its children begin with its ` + "`lost_segs`" + `, ` + "`busy_us`, `rwnd_limited_us` and `sndbuf_limited_us`" + `.
* Sockets made by TCP_REPAIR (CRIU) are clients on both ends, with one byte too few in ` + "`tx_bytes`" + `; one that is taken away by it ends as ` + "`rst_local`" + `, although nothing is sent.
* A link-local address is told without its interface.
* Of several processes that listen at one address each by a socket of its own (SO_REUSEPORT), a server's connection is taken for the latest's until its process closes it: if the
  peer resets it, ` + "`pid`" + ` may be another's of them. Likewise it is the listener's holder if several accept from one socket.
* A program that closes a socket in the moment in which it starts another program (fork, then exec, with FD_CLOEXEC) may not be the last to close it: then ` + "`pid` and `comm`" + ` of a
  server's record are the started program's.
* Connections older than the exporter in a network namespace that no process is in and that is mounted nowhere are not found at its start. Their end has a record, with
  everything in ` + "`tx_bytes_before` and `rx_bytes_before`" + `.
`

// RecordDocs returns docs/record.md.
func RecordDocs() string {
	var b strings.Builder
	b.WriteString(recordHead)
	for _, f := range Fields() {
		missing := f.Missing()
		if f.Source != Column32 && f.Source != Column64 {
			missing = "" // every batch has a header
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f.Name, plainType(f.Type), missing, f.Doc, f.Origin)
	}
	b.WriteString(recordTail)
	return b.String()
}

// plainType shortens Enum8('a' = 0, 'b' = 1) to Enum8: a, b; the numbers count from 0.
func plainType(t string) string {
	list, isEnum := strings.CutPrefix(t, "Enum8(")
	if !isEnum {
		return t
	}
	var names []string
	for part := range strings.SplitSeq(strings.TrimSuffix(list, ")"), ", ") {
		name, _, _ := strings.Cut(part, " = ")
		names = append(names, strings.Trim(name, "'"))
	}
	return "Enum8: " + strings.Join(names, ", ")
}
