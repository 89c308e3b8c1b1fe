-- What a minute captured is its reading less the one that had counted less, not the one of the minute before: an exporter's clock may have been set.
CREATE OR REPLACE VIEW {{.Database}}.exporter_completeness AS
{{.Completeness}};
