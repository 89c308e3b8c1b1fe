-- Look-ups of an address or a flow over days skip what cannot have it. Parts written before get none: they expire.
ALTER TABLE {{.Database}}.flows_raw ADD INDEX IF NOT EXISTS local_addr_filter local_addr TYPE bloom_filter(0.1) GRANULARITY 1;

ALTER TABLE {{.Database}}.flows_raw ADD INDEX IF NOT EXISTS remote_addr_filter remote_addr TYPE bloom_filter(0.1) GRANULARITY 1;

ALTER TABLE {{.Database}}.flows_raw ADD INDEX IF NOT EXISTS flow_filter flow_id TYPE bloom_filter(0.1) GRANULARITY 1;
