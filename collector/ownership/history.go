package ownership

import "time"

// Ranges lists the ranges of an address that touch [from, to], newest start first: what whois shows.
func (v View) Ranges(net NetworkID, addr Addr, from, to int64) []Range {
	var out []Range
	v.read(net, addr, func(s []span) {
		out = out[:0]
		for i := range s {
			r := &s[i]
			if r.from > to || r.end < from {
				continue
			}
			out = append(out, Range{
				Owner: *r.owner, Exporter: r.exporterID, Host: r.host, PortFrom: r.from16, PortTo: r.to16,
				From: r.from, To: r.end, Open: r.open, Released: r.released, Claims: r.claims, Blurred: r.blurred(),
				ClockError: time.Duration(r.slack), BadClock: r.barred,
			})
		}
	})
	return out
}

// Before gives the last owner whose range ended before at, and when it ended: for records without an answer, never for a name.
// Two owners that ended together give none.
func (v View) Before(net NetworkID, addr Addr, port uint16, at int64) (owner *Owner, seen int64) {
	v.read(net, addr, func(s []span) {
		owner, seen = nil, 0
		for i := range s {
			r := &s[i]
			if r.end >= at || r.from16 != 0 && (port < r.from16 || port > r.to16) {
				continue
			}
			switch {
			case r.end > seen:
				owner, seen = r.owner, r.end
			case r.end == seen && owner != nil && *owner != *r.owner:
				owner = nil
			}
		}
	})
	if owner == nil {
		return nil, 0
	}
	return owner, seen
}

// read hands the ranges of an address to f, again if they changed meanwhile.
func (v View) read(net NetworkID, addr Addr, f func([]span)) {
	var buf [maxWalk]span
	var in Found
	for {
		v.t.findOne(Key{net, addr}, &in)
		if !in.nobody() {
			f(v.spans(v.t.log.at(in.ref), buf[:0]))
		} else {
			f(nil)
		}
		if in.stands(v.t) {
			return
		}
	}
}
