#!/bin/sh
# Compiles capture.bpf.c and writes the object and its Go bindings to the directory
# given. The result depends on the sources and on clang-14 alone: paths are mapped away
# and debug information is stripped.
set -eu
cd "$(dirname "$0")"
GOPACKAGE=bpf GOOS= GOARCH= exec go run github.com/cilium/ebpf/cmd/bpf2go \
	-cc clang-14 -strip llvm-strip-14 -target bpfel -output-dir "$1" \
	-type flow_record -type listener_record -type open_socket -type flow_counters -type flow_counter \
	-cflags "-O2 -mcpu=v3 -Wall -Wextra -Wpadded -Werror -ffile-prefix-map=$PWD=." \
	Capture capture.bpf.c -- -I.
