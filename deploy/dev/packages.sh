#!/usr/bin/env bash
# Installs the Debian packages that a job needs and that are not there; does nothing when all are.
#
#   packages.sh build|generate|demo|test|kernels|kubernetes [--list]
#
# As root on Debian or Ubuntu it calls apt-get, by package name, without recommended packages. Otherwise it names what is
# missing in one sentence and ends with status 1. --list prints the missing packages and installs nothing. No service is
# started: nginx-light, etcd and Prometheus have one, and invoke-rc.d does not start it in runlevel 1.
set -euo pipefail

# What a job needs: "package probe" lines, where the probe is a command or, with a slash, a file.
needs() {
  case $1 in
    build) ;;
    demo) echo "nftables nft" ;;
    generate)
      echo "protobuf-compiler protoc"
      echo "clang-14 clang-14"
      echo "llvm-14 llvm-strip-14"
      ;;
    test)
      needs demo
      needs generate
      echo "gcc gcc" # the race detector is C
      echo "libc6-dev /usr/include/stdlib.h"
      echo "default-jre-headless java"
      echo "prometheus promtool"
      echo "prometheus-alertmanager amtool"
      echo "maven mvn"
      echo "runc runc"
      echo "busybox-static /bin/busybox"
      echo "nginx-light nginx"
      echo "e2fsprogs mkfs.ext4"
      echo "mount losetup"
      ;;
    kernels)
      needs demo
      echo "qemu-system-x86 qemu-system-x86_64"
      echo "cpio cpio"
      echo "kmod depmod"
      echo "busybox-static /bin/busybox"
      ;;
    kubernetes)
      echo "gcc gcc" # the race detector is C
      echo "libc6-dev /usr/include/stdlib.h"
      echo "etcd-server etcd"
      ;;
    *) echo "usage: packages.sh build|generate|demo|test|kernels|kubernetes [--list]" >&2; exit 2 ;;
  esac
}

# sbin is not on the PATH of an ordinary user, and nft is there.
PATH=$PATH:/usr/sbin:/sbin

# An assignment of its own, so that the usage error of needs ends the script.
lines=$(needs "${1:-}")
missing=()
while read -r package probe; do
  [ -n "$package" ] || continue
  case $probe in
    /*) [ -e "$probe" ] || missing+=("$package") ;;
    *) command -v "$probe" >/dev/null || missing+=("$package") ;;
  esac
done <<<"$lines"

if [ "${2:-}" = --list ]; then
  [ ${#missing[@]} = 0 ] || printf '%s\n' "${missing[@]}"
  exit 0
fi
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "these packages are missing: ${missing[*]}; install them (Debian: apt-get install ${missing[*]}) or run this as root" >&2
  exit 1
fi
echo "installing with apt-get: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { apt-get install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1; }
if ! install && ! { apt-get update -q >"$log" 2>&1 && install; }; then
  tail -n 5 "$log" >&2
  echo "apt-get could not install ${missing[*]}; the reason is above" >&2
  exit 1
fi
