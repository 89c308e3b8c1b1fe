-- Times of edges as histograms in place of states of quantiles, which took two thirds of a map's processor time (docs/schema.md). What the states
-- hold is taken over: a million rows a few seconds. If the migration is repeated their columns come back empty for a moment.
ALTER TABLE {{.Database}}.edges_1m_gens
    ADD COLUMN IF NOT EXISTS rtt_us_histogram {{.RTTHistogram}} AFTER retrans_segs,
    ADD COLUMN IF NOT EXISTS connect_us_histogram {{.ConnectHistogram}} AFTER rtt_us_histogram,
    ADD COLUMN IF NOT EXISTS rtt_us {{.State}},
    ADD COLUMN IF NOT EXISTS connect_us {{.State}};

ALTER TABLE {{.Database}}.edges_1m_gens
    UPDATE rtt_us_histogram = {{.OfRTT}}, connect_us_histogram = {{.OfConnect}}
    WHERE empty(rtt_us_histogram) AND empty(connect_us_histogram) AND length(toString(rtt_us)) + length(toString(connect_us)) > 2
    SETTINGS mutations_sync = 2;

ALTER TABLE {{.Database}}.edges_1h_gens
    ADD COLUMN IF NOT EXISTS rtt_us_histogram {{.RTTHistogram}} AFTER retrans_segs,
    ADD COLUMN IF NOT EXISTS connect_us_histogram {{.ConnectHistogram}} AFTER rtt_us_histogram,
    ADD COLUMN IF NOT EXISTS rtt_us {{.State}},
    ADD COLUMN IF NOT EXISTS connect_us {{.State}};

ALTER TABLE {{.Database}}.edges_1h_gens
    UPDATE rtt_us_histogram = {{.OfRTT}}, connect_us_histogram = {{.OfConnect}}
    WHERE empty(rtt_us_histogram) AND empty(connect_us_histogram) AND length(toString(rtt_us)) + length(toString(connect_us)) > 2
    SETTINGS mutations_sync = 2;

-- Of a table that is older than these columns.
ALTER TABLE {{.Database}}.flows_raw {{.NatColumns}};

CREATE OR REPLACE VIEW {{.Database}}.edges_1m AS
SELECT minute, {{.EdgeNames}}
FROM {{.Database}}.edges_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'minute')
UNION ALL
{{.NewestEdges}};

CREATE OR REPLACE VIEW {{.Database}}.edges_1h AS
SELECT hour, {{.EdgeNames}}
FROM {{.Database}}.edges_1h_gens
WHERE (hour, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'hour')
UNION ALL
SELECT toStartOfHour(e.minute) AS hour, {{.EdgeKey}}, {{.FoldEdges}}
FROM {{.Database}}.edges_1m AS e
WHERE e.minute >= (SELECT max(start) + toIntervalHour(count() > 0) FROM {{.Database}}.closed WHERE step = 'hour')
GROUP BY hour, {{.EdgeKey}};

CREATE OR REPLACE VIEW {{.Database}}.edges AS
SELECT
    client_workload, client_why, server_workload, server_why, server_port,
    {{.ShowEdges}},
    sumIf(e.open, e.minute = toStartOfMinute(now('UTC') - toIntervalMinute(1))) AS open,
    sumIf(e.unanswered, e.minute = toStartOfMinute(now('UTC') - toIntervalMinute(1))) AS unanswered
FROM {{.Database}}.edges_1m AS e
GROUP BY client_workload, client_why, server_workload, server_why, server_port;

ALTER TABLE {{.Database}}.edges_1m_gens DROP COLUMN IF EXISTS rtt_us, DROP COLUMN IF EXISTS connect_us;

ALTER TABLE {{.Database}}.edges_1h_gens DROP COLUMN IF EXISTS rtt_us, DROP COLUMN IF EXISTS connect_us;
