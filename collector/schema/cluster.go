package schema

import (
	"fmt"
	"regexp"
	"strings"
)

// ClusterDDL returns the whole schema as one script for a cluster of ClickHouse servers, made from the same templates: each table becomes a
// replicated table NAME_local on every shard and a Distributed table NAME in front of them, so that inserts and the views need not know.
// What has the same key is on the same shard, and of flows_raw all records of a connection are, both ends': the edges join them.
//
// It is untested: there was no cluster to try it on.
func ClusterDDL(o Options, cluster string) (string, error) {
	if !identifier.MatchString(cluster) {
		return "", fmt.Errorf("%q cannot be the name of a cluster: letters, digits and _ are allowed", cluster)
	}
	steps, err := Migrations(o)
	if err != nil {
		return "", err
	}
	c := clusterDDL{o.withDefaults().Database, cluster}
	var b strings.Builder
	fmt.Fprintf(&b, clusterHeader, cluster, c.database)
	for _, m := range steps {
		fmt.Fprintf(&b, "-- migration %d: %s\n\n", m.Version, m.Name)
		for _, s := range m.Statements {
			for _, out := range c.statements(s) {
				b.WriteString(out + ";\n\n")
			}
		}
		fmt.Fprintf(&b, "INSERT INTO %s.schema_migrations (version, name) SELECT %d, '%s';\n\n", c.database, m.Version, m.Name)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

const clusterHeader = `-- Tributary on the cluster %[1]s. UNTESTED: it is made from the statements of a single server, and no cluster was there to try it on.
-- It needs the macros {shard} and {replica}, and of whoever asks distributed_product_mode = 'local'. Run it on one server, then start collectors.
CREATE DATABASE IF NOT EXISTS %[2]s ON CLUSTER %[1]s;

CREATE TABLE IF NOT EXISTS %[2]s.schema_migrations ON CLUSTER %[1]s
(version UInt32, name String, applied_at DateTime DEFAULT now())
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/all/%[2]s/schema_migrations', '{shard}-{replica}') ORDER BY version;

`

type clusterDDL struct{ database, cluster string }

var (
	createTable  = regexp.MustCompile(`(?m)^CREATE TABLE IF NOT EXISTS (\w+)\.(\w+)`)
	mergeTree    = regexp.MustCompile(`(?m)^ENGINE = (\w*MergeTree)(?:\((.*)\))?`)
	sortKey      = regexp.MustCompile(`(?m)^ORDER BY (.+)$`)
	createView   = regexp.MustCompile(`(?m)^(CREATE (?:OR REPLACE |MATERIALIZED )?VIEW (?:IF NOT EXISTS )?\w+\.\w+)`)
	alterTable   = regexp.MustCompile(`(?m)^ALTER TABLE (\w+)\.(\w+)`)
	materialized = regexp.MustCompile(`(?m)^CREATE MATERIALIZED VIEW`)
)

// statements are those of a cluster for one of a single server.
func (c clusterDDL) statements(s string) []string {
	switch {
	case createTable.MatchString(s):
		return c.table(s)
	case createView.MatchString(s):
		s = createView.ReplaceAllString(s, "$1 ON CLUSTER "+c.cluster)
		if materialized.MatchString(s) {
			s = strings.ReplaceAll(s, "FROM "+c.database+".flows_raw GROUP", "FROM "+c.database+".flows_raw_local GROUP") // inserts arrive there
		}
		return []string{s}
	case alterTable.MatchString(s):
		local := alterTable.ReplaceAllString(s, "ALTER TABLE $1.${2}_local ON CLUSTER "+c.cluster)
		if strings.Contains(s, "ADD COLUMN") {
			return []string{local, alterTable.ReplaceAllString(s, "ALTER TABLE $1.$2 ON CLUSTER "+c.cluster)}
		}
		return []string{local}
	}
	return []string{s}
}

func (c clusterDDL) table(s string) []string {
	name := createTable.FindStringSubmatch(s)[2]
	shard := "cityHash64(" + sortKey.FindStringSubmatch(s)[1] + ")"
	if name == "flows_raw" {
		shard = connectionHash
	}
	local := createTable.ReplaceAllString(s, "CREATE TABLE IF NOT EXISTS $1.${2}_local ON CLUSTER "+c.cluster)
	local = mergeTree.ReplaceAllStringFunc(local, func(engine string) string {
		m := mergeTree.FindStringSubmatch(engine)
		args := fmt.Sprintf("'/clickhouse/tables/{shard}/%s/%s', '{replica}'", c.database, name)
		if m[2] != "" {
			args += ", " + m[2]
		}
		return "ENGINE = Replicated" + m[1] + "(" + args + ")"
	})
	local = strings.ReplaceAll(local, "non_replicated_deduplication_window", "replicated_deduplication_window")
	return []string{local, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %[1]s.%[2]s ON CLUSTER %[3]s AS %[1]s.%[2]s_local\nENGINE = Distributed(%[3]s, %[1]s, %[2]s_local, %[4]s)",
		c.database, name, c.cluster, shard)}
}
