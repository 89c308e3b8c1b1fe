-- When a verdict was found: it may be corrected while a regression is young, and those who were told are told again.
ALTER TABLE {{.Database}}.regressions_raw
    ADD COLUMN IF NOT EXISTS verdict_at DateTime64(3, 'UTC') DEFAULT opened_at COMMENT 'when the verdict was found; later than opened_at: it was corrected then';

CREATE OR REPLACE VIEW {{.Database}}.regressions AS
SELECT * EXCEPT (version), closed_at = toDateTime64(0, 3, 'UTC') AS open
FROM {{.Database}}.regressions_raw FINAL;
