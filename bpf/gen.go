// Package bpf holds the kernel programs (capture.bpf.c), the layouts they share
// with user space (record.h) and the bindings that bpf2go makes of them. Only
// exporter/probe imports this package.
//
// The object is committed, so that building Tributary needs no clang. It is the
// same for every little-endian machine. check.sh compiles it again with Debian's
// clang-14 and compares the bytes.
package bpf

//go:generate ./generate.sh .
