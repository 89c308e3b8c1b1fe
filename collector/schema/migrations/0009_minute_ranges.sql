-- A condition on the minute or hour alone reads only what it asks for: the keys begin with the hour or day, which ClickHouse does not derive
-- from a column that is itself further back in the key.
ALTER TABLE {{.Database}}.edges_1m_gens ADD INDEX IF NOT EXISTS minute_range minute TYPE minmax GRANULARITY 1;

ALTER TABLE {{.Database}}.edges_1m_gens MATERIALIZE INDEX minute_range;

ALTER TABLE {{.Database}}.edges_1h_gens ADD INDEX IF NOT EXISTS hour_range hour TYPE minmax GRANULARITY 1;

ALTER TABLE {{.Database}}.edges_1h_gens MATERIALIZE INDEX hour_range;

ALTER TABLE {{.Database}}.recorded_1m_gens ADD INDEX IF NOT EXISTS minute_range minute TYPE minmax GRANULARITY 1;

ALTER TABLE {{.Database}}.recorded_1m_gens MATERIALIZE INDEX minute_range;

ALTER TABLE {{.Database}}.reachability_gens ADD INDEX IF NOT EXISTS minute_range minute TYPE minmax GRANULARITY 1;

ALTER TABLE {{.Database}}.reachability_gens MATERIALIZE INDEX minute_range;
