-- What the local end is called beyond a host that translates its address: by that its peer's record is of the same connection.
ALTER TABLE {{.Database}}.flows_raw {{.NatColumns}};

CREATE OR REPLACE VIEW {{.Database}}.flows AS
SELECT
{{.Names}}
FROM {{.Database}}.flows_raw FINAL;

CREATE OR REPLACE VIEW {{.Database}}.edges_1m AS
SELECT minute, {{.EdgeNames}}
FROM {{.Database}}.edges_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'minute')
UNION ALL
{{.NewestEdges}};
