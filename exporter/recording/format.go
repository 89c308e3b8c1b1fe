package recording

import "errors"

// magic begins every recording; its number changes with the format.
const magic = "tributary recording 1\n"

// Bounds of what a reader takes.
const (
	maxHeaderBytes = 64 << 10
	maxNameBytes   = 16 << 10
	maxNames       = 1 << 20
	maxRecordBytes = 4 << 10
)

// Why a recording cannot be read; test with errors.Is.
var (
	ErrFormat  = errors.New("this is no recording of tributary-exporter")
	ErrVersion = errors.New("this recording is of another version of tributary-exporter")
	ErrCut     = errors.New("the recording breaks off: it was not closed")
)

// Header says where a recording is from.
type Header struct {
	Host        string `json:"host"`
	BootID      string `json:"boot_id"`
	ExporterID  string `json:"exporter_id"`
	Version     string `json:"version"` // of the exporter
	Kernel      string `json:"kernel"`
	RecordBytes int    `json:"record_bytes"` // of one kernel record: another size is another version
	BeganNs     int64  `json:"began_ns"`     // wall clock
}

// Kind is the kind of a frame.
type Kind byte

// The kinds of frames.
const (
	Anchor Kind = 'a' // the distance of the clocks, from here on
	Record Kind = 'r' // a kernel record and the name it got
	Sweep  Kind = 's' // a walk of the open sockets has ended
	name   Kind = 'n'
	end    Kind = 'e'
)

// Frame is one thing that was told. Its bytes are valid until the next one.
type Frame struct {
	Kind   Kind
	Anchor int64  // of an Anchor
	Record []byte // of a Record
	Name   []byte // of a Record; nil where it had none
}
