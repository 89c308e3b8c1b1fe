#!/bin/sh
# Compiles the kernel programs again and compares the result with what is committed.
set -eu
cd "$(dirname "$0")"
for tool in clang-14 llvm-strip-14; do
	command -v "$tool" >/dev/null || { echo "bpf/check.sh: $tool is missing: apt-get install clang-14 llvm-14" >&2; exit 3; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
./generate.sh "$work" >/dev/null
for file in capture_bpfel.o capture_bpfel.go; do
	cmp "$work/$file" "$file" || { echo "bpf/check.sh: $file is not what its sources make: run go generate ./bpf" >&2; exit 1; }
done
