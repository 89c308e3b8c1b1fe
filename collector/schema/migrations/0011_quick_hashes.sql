-- The newest minutes by quicker hashes and without views in between.
CREATE OR REPLACE VIEW {{.Database}}.recorded_1m AS
SELECT minute, exporter_id, host, workload, records, unnamed
FROM {{.Database}}.recorded_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'minute')
UNION ALL
{{.NewestRecorded}};
