-- The same numbers without copies of all counters.
CREATE OR REPLACE VIEW {{.Database}}.exporter_completeness AS
{{.Completeness}};
