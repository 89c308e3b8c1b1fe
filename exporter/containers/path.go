package containers

import (
	"strings"
)

// FromPath says which container a cgroup belongs to by the form of its path, with the UID of the pod that the container is
// in; "" where the path does not say. Only ids as runtimes make them are recognised, 64 hexadecimal digits: a directory's name proves nothing.
func FromPath(path string) (id, pod string) {
	for part := range strings.SplitSeq(path, "/") {
		if uid := podUID(part); uid != "" {
			pod, id = uid, ""
		} else if c := containerID(part); c != "" {
			id = c
		}
	}
	return id, pod
}

// containerID understands "<id>", as cgroupfs drivers name a cgroup, and "<runtime>-<id>.scope", as systemd's do.
func containerID(part string) string {
	name, scope := strings.CutSuffix(part, ".scope")
	if scope {
		at := strings.LastIndexByte(name, '-')
		if strings.HasSuffix(name[:max(at, 0)], "conmon") {
			return "" // the runtime's own watcher
		}
		name = name[at+1:]
	}
	if len(name) != 64 || !isHex(name) {
		return ""
	}
	return name
}

// podUID understands "pod<uid>" and systemd's "kubepods-burstable-pod<uid>.slice", which has _ for -. The UID of a static pod is
// 32 digits without any.
func podUID(part string) string {
	name, slice := strings.CutSuffix(part, ".slice")
	if slice {
		if !strings.HasPrefix(name, "kubepods") {
			return ""
		}
		name = strings.ReplaceAll(name[strings.LastIndexByte(name, '-')+1:], "_", "-")
	}
	uid, ok := strings.CutPrefix(name, "pod")
	if !ok || !isUID(uid) {
		return ""
	}
	return uid
}

func isUID(s string) bool {
	if len(s) == 32 {
		return isHex(s)
	}
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return isHex(strings.ReplaceAll(s, "-", ""))
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}
