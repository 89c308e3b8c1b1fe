-- What an exporter had to sum up because its spool was full: pending counts what came of it, and reachability counts its connections.
CREATE OR REPLACE VIEW {{.Database}}.exporter_completeness AS
{{.Completeness}};

CREATE OR REPLACE VIEW {{.Database}}.reachability AS
SELECT minute, {{.ReachabilityColumns}}
FROM {{.Database}}.reachability_gens
WHERE (minute, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'minute')
UNION ALL
{{.NewestReachability}};
