package filter

import (
	"net/netip"
	"path"
	"slices"
	"strings"
)

// covers reports whether everything that other matches is matched by r, as far as that can be told from their values.
func (r *Rule) covers(other *Rule) bool {
	return coversEnds(&r.prefix, &other.prefix, func(outer, inner netip.Prefix) bool {
		return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
	}) &&
		coversEnds(&r.port, &other.port, func(outer, inner ports) bool { return outer.from <= inner.from && outer.to >= inner.to }) &&
		coversList(r.workload, other.workload, coversPattern) && coversList(r.role, other.role, equal) && r.coversState(other)
}

// coversPattern compares patterns by their text, and a pattern with a name.
func coversPattern(outer, inner string) bool {
	if strings.ContainsAny(inner, `*?[\\`) {
		return outer == inner
	}
	ok, _ := path.Match(outer, inner)
	return ok
}

func equal[T comparable](a, b T) bool { return a == b }

// coversState compares two lists of which one value of either suffices.
func (r *Rule) coversState(other *Rule) bool {
	if r.kind == nil && r.state == nil {
		return true
	}
	if other.kind == nil && other.state == nil {
		return false
	}
	subset := true
	for _, k := range other.kind {
		subset = subset && slices.Contains(r.kind, k)
	}
	for _, s := range other.state {
		subset = subset && slices.Contains(r.state, s)
	}
	return subset
}

func coversEnds[T any](outer, inner *ends[T], contains func(outer, inner T) bool) bool {
	return coversList(outer.local, inner.local, contains) && coversList(outer.remote, inner.remote, contains) &&
		(coversList(outer.any, inner.any, contains) || inner.local != nil && coversList(outer.any, inner.local, contains) ||
			inner.remote != nil && coversList(outer.any, inner.remote, contains))
}

// coversList reports whether each inner value is in an outer one; no list is every value.
func coversList[T any](outer, inner []T, contains func(outer, inner T) bool) bool {
	if outer == nil {
		return true
	}
	if inner == nil {
		return false
	}
	for _, i := range inner {
		if !slices.ContainsFunc(outer, func(o T) bool { return contains(o, i) }) {
			return false
		}
	}
	return true
}
