-- A quarter less for the roll-ups (docs/schema.md): codecs by measurement, times to the second, samples of times to a fifth of an octave. What is
-- stored already stays as exact as it is, and takes the codecs at its next merge.
ALTER TABLE {{.Database}}.edges_1m_gens
    MODIFY COLUMN minute CODEC(ZSTD(9)),
    MODIFY COLUMN gen CODEC(ZSTD(9)),
    MODIFY COLUMN bytes_to_server CODEC(T64('bit'), ZSTD(1)),
    MODIFY COLUMN bytes_to_client CODEC(T64('bit'), ZSTD(1)),
    MODIFY COLUMN first_seen CODEC(GCD, Delta(8), ZSTD(1)),
    MODIFY COLUMN last_seen CODEC(GCD, Delta(8), ZSTD(1)),
    COMMENT COLUMN first_seen 'second in which the first connection started',
    COMMENT COLUMN last_seen 'second in which the last record ended';

ALTER TABLE {{.Database}}.edges_1h_gens
    MODIFY COLUMN hour CODEC(ZSTD(9)),
    MODIFY COLUMN gen CODEC(ZSTD(9)),
    MODIFY COLUMN bytes_to_server CODEC(T64('bit'), ZSTD(1)),
    MODIFY COLUMN bytes_to_client CODEC(T64('bit'), ZSTD(1)),
    MODIFY COLUMN first_seen CODEC(GCD, Delta(8), ZSTD(1)),
    MODIFY COLUMN last_seen CODEC(GCD, Delta(8), ZSTD(1)),
    COMMENT COLUMN first_seen 'second in which the first connection started',
    COMMENT COLUMN last_seen 'second in which the last record ended';
