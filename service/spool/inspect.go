package spool

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// Report is what is in a spool directory. It is read without a lock: a running exporter may change it meanwhile, and which
// batches of a segment are acknowledged only that exporter knows (its metrics tell).
type Report struct {
	Directory string
	Pid       int          // of the exporter that uses it; 0: none that this process can see
	Files     []FileReport // by name
	Total     FileReport   // of the segments that are ours to send
}

// FileReport is what is in one file.
type FileReport struct {
	File     string    `json:"file"`
	State    string    `json:"state"` // of [SegmentState]
	Run      string    `json:"exporter_id,omitempty"`
	Host     string    `json:"host,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why it is what it is
	Bytes    int64     `json:"bytes"`
	Batches  uint64    `json:"batches"` // whole ones, every byte checked
	Rows     uint64    `json:"rows"`
	FirstSeq uint64    `json:"first_seq,omitempty"`
	LastSeq  uint64    `json:"last_seq,omitempty"`
	Oldest   time.Time `json:"oldest,omitzero"` // wall clock of the host that wrote it
	Newest   time.Time `json:"newest,omitzero"`
	Damaged  uint64    `json:"damaged"` // batches, or places where a batch may have been, that cannot be read
}

// Inspect reads a spool directory for a person. host is this machine's name: segments of others are told apart; "" takes all
// for ours. It changes nothing.
func Inspect(path, host string) (Report, error) {
	report := Report{Directory: path, Total: FileReport{State: Ready.String()}}
	root, err := os.OpenRoot(path)
	if err != nil {
		return report, fmt.Errorf("open the spool directory: %w", err)
	}
	d := &dir{path: path, root: root}
	defer func() { _ = root.Close() }() // it was only read
	files, err := d.List()
	if err != nil {
		return report, fmt.Errorf("list the spool directory: %w", err)
	}
	slices.SortFunc(files, func(a, b FileInfo) int { return cmp.Compare(a.Name, b.Name) })
	for _, f := range files {
		if f.Name == lockName {
			report.Pid = lockHolder(root)
			continue
		}
		file := inspectFile(d, f, host)
		report.Files = append(report.Files, file)
		if file.State == Ready.String() {
			report.Total.count(file)
		}
	}
	return report, nil
}

// count adds a file to a total.
func (r *FileReport) count(f FileReport) {
	r.Bytes += f.Bytes
	r.Batches += f.Batches
	r.Rows += f.Rows
	r.Damaged += f.Damaged
	r.between(f.Oldest)
	r.between(f.Newest)
}

func (r *FileReport) between(t time.Time) {
	if t.IsZero() {
		return
	}
	if r.Oldest.IsZero() || t.Before(r.Oldest) {
		r.Oldest = t
	}
	if t.After(r.Newest) {
		r.Newest = t
	}
}

func inspectFile(d *dir, f FileInfo, host string) FileReport {
	r := FileReport{File: plain(f.Name), Bytes: f.Size}
	is := func(state SegmentState, err error) FileReport {
		r.State = state.String()
		if err != nil {
			r.Reason = plain(err.Error())
		}
		return r
	}
	_, kind, ours := parseName(f.Name)
	if !ours || f.Strange {
		return is(Unknown, nil)
	}
	file, err := d.Open(f.Name)
	if err != nil {
		return is(Headless, err)
	}
	defer file.Close()
	h, err := readHead(file)
	switch {
	case errors.Is(err, errNewer):
		return is(Newer, err)
	case err != nil && unborn(file, f.Size):
		return is(Empty, nil)
	case err != nil:
		return is(Headless, err)
	}
	r.Run, r.Host, r.Reason = plain(h.Run), plain(h.Host), plain(h.Reason)
	r.records(file, f.Size, h)
	switch {
	case kind == kindRejected:
		return is(Rejected, nil)
	case kind == kindAcked:
		return is(Kept, nil)
	case host != "" && h.Host != host:
		return is(Foreign, foreignError(h.Host))
	}
	return is(Ready, nil)
}

// records reads all of a file.
func (r *FileReport) records(file File, size int64, h head) {
	var body []byte
	err := scan(file, size, h.Nonce, func(rec record) {
		body = slices.Grow(body[:0], int(rec.size))[:rec.size]
		if n, _ := file.ReadAt(body, rec.off+recordBytes); n < len(body) || crc32.Checksum(body, castagnoli) != rec.sum {
			r.Damaged++
			return
		}
		if r.Batches == 0 {
			r.FirstSeq = rec.seq
		}
		r.LastSeq = rec.seq
		r.Batches++
		r.Rows += uint64(rec.rows)
		r.between(time.Unix(0, h.CreatedNs).Add(time.Duration(rec.ageMs) * time.Millisecond).UTC())
	}, func(damage) { r.Damaged++ })
	if err != nil {
		r.Damaged++
		r.Reason = plain(err.Error())
	}
}

// lockHolder returns the process that holds the lock, 0 if none is seen. Trying the lock would keep an exporter out that
// starts in this moment; the kernel's list does not.
func lockHolder(root *os.Root) int {
	info, err := root.Stat(lockName)
	if err != nil {
		return 0
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	// A line: "3: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF", the device in hexadecimal; see proc_locks(5).
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	for line := range strings.Lines(string(locks)) {
		if f := strings.Fields(line); len(f) > 5 && f[1] == "FLOCK" && f[5] == file {
			pid, _ := strconv.Atoi(f[4]) // 0 is not seen either
			return pid
		}
	}
	return 0
}

// Write prints the report as an aligned table. Ages are counted back from now.
func (r Report) Write(w io.Writer, now time.Time) error {
	b := bufio.NewWriter(w)
	user := "no exporter uses it"
	if r.Pid > 0 {
		user = fmt.Sprintf("in use by process %d", r.Pid)
	}
	fmt.Fprintf(b, "%s: %s\n", r.Directory, user)
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FILE\tSTATE\tBATCHES\tROWS\tBYTES\tOLDEST\tNEWEST\tDAMAGED\tRUN\tBATCH_SEQ\tREASON")
	for _, f := range r.Files {
		f.line(t, now)
	}
	total := r.Total
	total.File, total.State = "total to send", ""
	total.line(t, now)
	t.Flush()
	return b.Flush()
}

// WriteJSON prints the report for a program: one object a line, one line a file.
func (r Report) WriteJSON(w io.Writer) error {
	lines := json.NewEncoder(w)
	for _, f := range r.Files {
		if err := lines.Encode(f); err != nil {
			return err
		}
	}
	return nil
}

func (r FileReport) line(w io.Writer, now time.Time) {
	age := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return now.Sub(t).Round(time.Second).String()
	}
	span := "-"
	if r.FirstSeq > 0 {
		span = fmt.Sprintf("%d-%d", r.FirstSeq, r.LastSeq)
	}
	fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%d\t%s\t%s\t%s\n", r.File, r.State, r.Batches, r.Rows, r.Bytes, age(r.Oldest),
		age(r.Newest), r.Damaged, cmp.Or(r.Run, "-"), span, cmp.Or(r.Reason, "-"))
}
