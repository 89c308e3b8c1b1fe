package embedded

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/go-cmp/cmp"
)

// openClient is clickhouse-go as any program uses it.
func openClient(t *testing.T, s *Store, method clickhouse.CompressionMethod, writer bool) clickhouse.Conn {
	t.Helper()
	options := &clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{strings.TrimPrefix(s.URL(), "http://")},
		Auth:        clickhouse.Auth{Database: "tributary"},
		Compression: &clickhouse.Compression{Method: method},
	}
	if writer {
		options.Auth.Username, options.Auth.Password = s.Credential().User, s.Credential().Password
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// everyType is one row of the types that our tables and views use.
type everyType struct {
	I    int64             `ch:"i"`
	U    uint16            `ch:"u"`
	F    float64           `ch:"f"`
	S    string            `ch:"s"`
	L    string            `ch:"l"`
	E    string            `ch:"e"`
	A    net.IP            `ch:"a"`
	T    time.Time         `ch:"t"`
	D    time.Time         `ch:"d"`
	List []string          `ch:"list"`
	M    map[string]uint64 `ch:"m"`
	N    *string           `ch:"n"`
	LL   []string          `ch:"ll"`
	B    bool              `ch:"b"`
}

const everyTypeTable = `CREATE OR REPLACE TABLE every_type (i Int64, u UInt16, f Float64, s String, l LowCardinality(String),
	e Enum8('unknown' = 0, 'client' = 1, 'server' = 2), a IPv6, t DateTime64(9), d DateTime, list Array(String), m Map(String, UInt64), n Nullable(String),
	ll Array(LowCardinality(String)), b Bool) ENGINE = MergeTree ORDER BY i SETTINGS non_replicated_deduplication_window = 100`

func everyTypeRows() []everyType {
	text := "present"
	rows := []everyType{
		{
			-1, 65535, 1.5, "a\n\nb", "shop/web", "client", net.ParseIP("fd77::12"), time.Date(2026, 11, 21, 1, 2, 3, 456789012, time.UTC),
			time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC),
			[]string{"x", ""},
			map[string]uint64{"k": 1 << 63},
			&text,
			[]string{"p", "q", "p"},
			true,
		},
		{2, 0, -0.25, "", "", "unknown", net.ParseIP("::ffff:10.77.0.12"), time.Unix(0, 0).UTC(), time.Unix(1, 0).UTC(), []string{}, map[string]uint64{}, nil, []string{}, false},
	}
	return rows
}

func TestClickHouseGo(t *testing.T) {
	s := sharedStore(t)
	for name, method := range map[string]clickhouse.CompressionMethod{
		"none": clickhouse.CompressionNone, "lz4": clickhouse.CompressionLZ4, "zstd": clickhouse.CompressionZSTD, "gzip": clickhouse.CompressionGZIP,
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			conn := openClient(t, s, method, true)
			if err := conn.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			if err := conn.Exec(ctx, everyTypeTable); err != nil {
				t.Fatal(err)
			}
			insertEveryType(clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": "t"})), t, conn)
			insertEveryType(clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": "t"})), t, conn)
			reader := openClient(t, s, method, false)
			var got []everyType
			if err := reader.Select(ctx, &got, "SELECT * FROM every_type ORDER BY i"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(everyTypeRows(), got, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }), cmp.Comparer(net.IP.Equal)); diff != "" {
				t.Error(diff)
			}
			checkQueries(t, reader)
		})
	}
}

func insertEveryType(ctx context.Context, t *testing.T, conn clickhouse.Conn) {
	t.Helper()
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO every_type")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range everyTypeRows() {
		if err := batch.AppendStruct(&row); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
}

func checkQueries(t *testing.T, conn clickhouse.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // a deadline becomes max_execution_time
	defer cancel()
	var n uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM every_type WHERE l = {l:String}", clickhouse.Named("l", "shop/web")).Scan(&n); err != nil || n != 1 {
		t.Errorf("query with a parameter: %d, %v", n, err)
	}
	if err := conn.QueryRow(ctx, "SELECT count() FROM every_type WHERE i IN (?)", []int64{-1, 2}).Scan(&n); err != nil || n != 2 {
		t.Errorf("query with a bound argument: %d, %v", n, err)
	}
	if err := conn.QueryRow(ctx, "SELECT sum(number) FROM numbers(300000)").Scan(&n); err != nil || n != 44999850000 {
		t.Errorf("sum: %d, %v", n, err)
	}
	rows, err := conn.Query(ctx, "SELECT number FROM numbers(300000)")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for rows.Next() {
		count++
	}
	if err := rows.Err(); err != nil || count != 300000 {
		t.Errorf("many blocks: %d rows, %v", count, err)
	}
	rows, err = conn.Query(ctx, "SELECT i FROM every_type WHERE 0")
	if err != nil || rows.Next() || rows.Err() != nil {
		t.Errorf("no rows: %v", err)
	}
	err = conn.Exec(ctx, "SELECT * FROM no_such_table")
	var exception *clickhouse.Exception
	if !errors.As(err, &exception) || exception.Code != 60 {
		t.Errorf("missing table: %v", err)
	}
	if err := conn.Exec(ctx, "DROP TABLE every_type"); !errors.As(err, &exception) || exception.Code != 497 {
		t.Errorf("DROP without credentials: %v", err)
	}
	if v, err := conn.ServerVersion(); err != nil || v.Version.Major < 26 {
		t.Errorf("version: %v, %v", v, err)
	}
}

// TestNativeBridgeTypes reads aggregates, tuples, decimals and dates through the bridge.
func TestNativeBridgeTypes(t *testing.T) {
	s := sharedStore(t)
	conn := openClient(t, s, clickhouse.CompressionLZ4, false)
	var (
		quantiles []float64
		day       time.Time
		id        string
		low       *string
		stamp     time.Time
	)
	err := conn.QueryRow(t.Context(), `SELECT quantilesTDigest(0.5, 0.9)(number)::Array(Float64), toDate('2026-11-21'), toString(toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0')),
		toLowCardinality(toNullable('n')), toDateTime64('2026-11-21 01:02:03.123456789', 9, 'Europe/Berlin') FROM numbers(101)`).
		Scan(&quantiles, &day, &id, &low, &stamp)
	if err != nil {
		t.Fatal(err)
	}
	if len(quantiles) != 2 || quantiles[0] != 50 || day.Format(time.DateOnly) != "2026-11-21" || *low != "n" ||
		!stamp.Equal(time.Date(2026, 11, 21, 0, 2, 3, 123456789, time.UTC)) {
		t.Errorf("%v %v %v %v %v", quantiles, day, id, *low, stamp)
	}
}
