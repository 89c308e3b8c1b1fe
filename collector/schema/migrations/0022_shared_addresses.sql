-- An address that stands for others from some moment on is released apart from one that is given up: past such an end nobody is named, however little (docs/ownership.md).
ALTER TABLE {{.Database}}.ownership
    MODIFY COLUMN event Enum8('hello' = 0, 'claim' = 1, 'release' = 2, 'whole_set' = 3, 'repeated_claim' = 4, 'repeated_set' = 5, 'watermark' = 6, 'shared' = 7)
        COMMENT 'shared: a release, because the address stands for others too; whole_set: what was not claimed on this stream has ended; repeated: said again for those who come later' CODEC(ZSTD(1));
