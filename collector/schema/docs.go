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
