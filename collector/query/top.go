package query

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// measures are what edges can be ranked by.
var measureNames = []string{"bytes", "connections", "open", "failures", "retransmits", "rtt", "connect"}

func measure(name string) (func(*Edge) uint64, error) {
	switch name {
	case "bytes":
		return func(e *Edge) uint64 { return e.BytesToServer + e.BytesToClient }, nil
	case "connections":
		return func(e *Edge) uint64 { return e.Connections }, nil
	case "open":
		return func(e *Edge) uint64 { return e.Open }, nil
	case "failures":
		return func(e *Edge) uint64 { return e.Failures }, nil
	case "retransmits":
		return func(e *Edge) uint64 { return e.RetransSegs }, nil
	case "rtt":
		return func(e *Edge) uint64 { return e.RttUsP95 }, nil
	case "connect":
		return func(e *Edge) uint64 { return e.ConnectUsP95 }, nil
	}
	return nil, fmt.Errorf("--by %q is unknown: %s", name, strings.Join(measureNames, ", "))
}

// Top writes the edges of a map with the most of something, those that have none of it left out.
func Top(ctx context.Context, c *Client, o MapOptions, by string, n int, now Clock, w io.Writer) error {
	of, err := measure(by)
	if err != nil {
		return err
	}
	if n < 1 {
		return fmt.Errorf("-n %d: at least 1 is needed", n)
	}
	edges, err := c.mapEdges(ctx, o, now)
	if err != nil {
		return err
	}
	edges = slices.DeleteFunc(edges, func(e Edge) bool { return of(&e) == 0 })
	slices.SortStableFunc(edges, func(a, b Edge) int { return cmp.Compare(of(&b), of(&a)) })
	edges = edges[:min(len(edges), n)]
	if o.Format == FormatJSON {
		return writeJSON(edges, w)
	}
	return writeEdges(edges, w)
}
