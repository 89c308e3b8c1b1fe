package main

import (
	"fmt"
	"net"
)

// What the collector's verbs ask when they are told nothing.
const (
	defaultSQL = "127.0.0.1:8123"
	defaultAPI = "127.0.0.1:8747"
)

// ports are the addresses of one demo: the default ones where they are free.
type ports struct {
	ingest, api, collectorMetrics, exporterMetrics, sql string
	moved                                               []string // a sentence for each that had to move
}

func choosePorts() (ports, error) {
	var p ports
	for _, want := range []struct {
		to            *string
		address, what string
	}{
		{&p.ingest, "127.0.0.1:4747", "ingest"},
		{&p.api, defaultAPI, "the collector's API"},
		{&p.collectorMetrics, "127.0.0.1:9747", "the collector's metrics"},
		{&p.exporterMetrics, "127.0.0.1:9748", "the exporter's metrics"},
		{&p.sql, defaultSQL, "SQL"},
	} {
		address, err := freeAddress(want.address)
		if err != nil {
			return p, err
		}
		*want.to = address
		if address != want.address {
			p.moved = append(p.moved, fmt.Sprintf("%s is taken: %s is on %s", want.address, want.what, address))
		}
	}
	return p, nil
}

// freeAddress is the wanted address or, where somebody has it, a free one. It is free when asked: whoever binds it later
// says so itself.
func freeAddress(want string) (string, error) {
	for _, address := range []string{want, "127.0.0.1:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String(), nil
	}
	return "", fmt.Errorf("no free port on 127.0.0.1")
}
