// Package build says which build of a program is running, for --version, build_info and the wire.
//
// The Makefile writes version and revision with the linker (-ldflags -X); a plain `go build` falls back to what the Go
// toolchain stamped, and else to "unknown". Nothing changes at run time.
package build

import (
	"runtime"
	"runtime/debug"
)

// Written by the linker, never by code.
var (
	version  string
	revision string
)

// Info describes one build. No field is empty.
type Info struct {
	Version   string // release such as "v0.3.0", or "dev"
	Revision  string // commit hash, "-dirty" appended for a changed tree, or "unknown"
	GoVersion string // "go1.26.8"
}

// Current returns the build of the running program.
func Current() Info {
	info := Info{Version: version, Revision: revision, GoVersion: runtime.Version()}
	if info.Revision == "" {
		info.Revision = stampedRevision()
	}
	if info.Version == "" {
		info.Version = "dev"
	}
	return info
}

// String is what --version prints behind the program's name.
func (i Info) String() string {
	return i.Version + " (revision " + i.Revision + ", " + i.GoVersion + ")"
}

func stampedRevision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && setting.Value != "" {
			return setting.Value
		}
	}
	return "unknown"
}
