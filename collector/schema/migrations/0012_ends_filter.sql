-- The edges of one workload, at either end, skip what cannot have it: the key begins with the client.
ALTER TABLE {{.Database}}.edges_1m_gens ADD INDEX IF NOT EXISTS ends_filter (client_workload, server_workload) TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE {{.Database}}.edges_1m_gens MATERIALIZE INDEX ends_filter;

ALTER TABLE {{.Database}}.edges_1h_gens ADD INDEX IF NOT EXISTS ends_filter (client_workload, server_workload) TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE {{.Database}}.edges_1h_gens MATERIALIZE INDEX ends_filter;
