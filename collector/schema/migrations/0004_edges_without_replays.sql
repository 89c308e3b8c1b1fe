-- What is not closed yet is read through this view: a recording (replay) is not in it.
CREATE OR REPLACE VIEW {{.Database}}.recorded_1m AS
SELECT minute, exporter_id, host, workload, records, unnamed
FROM {{.Database}}.recorded_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'minute')
UNION ALL
{{.NewestRecorded}};

-- What is noted of minutes is of use while their edges are kept, 30 days. Hours are kept for 400.
ALTER TABLE {{.Database}}.closed MODIFY TTL start + toIntervalDay(if(step = 'minute', 31, 400));
