#!/usr/bin/env bash
# Runs the capture tests (exporter/probe) on Debian's own kernels, in virtual machines of a minute each.
#
#   kernels.sh DIR [PACKAGE…]
#
# DIR keeps the packages and the guests' output. Without packages: the newest cloud kernel of Debian's 6.1 and the newest of all that apt
# offers. A guest is the kernel with its modules, busybox, ip, nft and one static test binary in an initramfs. It fails if any
# test fails but those that SKIP names, which the comment there explains. The guest is emulated: KVM inside another virtual machine hung (QEMU 7.2).
# cx16, which that QEMU gets wrong, is off.
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: kernels.sh DIR [PACKAGE…]" >&2; exit 2; }
dir=$(realpath -m "$1")
shift
# What emulation or an older kernel does otherwise: on a slow machine the data does not meet the FIN, but comes before it; on 6.1 an MPTCP subflow
# has a socket, and so counts as accepted, before the program takes it.
SKIP=${SKIP-TestScenarios/.*/table/(data_that_meets_the_FIN|MPTCP)$}
TESTS=${TESTS-TestScenarios|TestRecordLayout|TestScope}
for tool in qemu-system-x86_64:qemu-system-x86 cpio:cpio depmod:kmod nft:nftables ip:iproute2; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${tool%%:*}" >/dev/null || {
    echo "kernels.sh: ${tool%%:*} is missing: apt-get install ${tool##*:}" >&2
    exit 3
  }
done
[ -x /bin/busybox ] || { echo "kernels.sh: busybox is missing: apt-get install busybox-static" >&2; exit 3; }
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$dir"

# The newest package of a series, by version; unsigned and debug packages are others.
newest() { apt-cache search --names-only "^linux-image-$1[0-9.+a-z-]*-cloud-amd64\$" | cut -d' ' -f1 | grep -E '^linux-image-[0-9]+\.[0-9]+\.[0-9]' | sort -V | tail -1; }
packages=("$@")
if [ ${#packages[@]} = 0 ]; then
  mapfile -t packages < <({ newest 6.1.0; newest ''; } | sort -uV)
fi
[ ${#packages[@]} != 0 ] || { echo "kernels.sh: apt knows no kernel: apt-get update" >&2; exit 3; }

CGO_ENABLED=0 go test -c -o "$dir/probe.test" ./exporter/probe

# A program with the libraries it needs.
with_libraries() {
  cp --parents "$1" "$root"
  ldd "$1" 2>/dev/null | grep -o '/[^ )]*' | while read -r library; do cp --parents -n "$library" "$root" 2>/dev/null || true; done
}

# What the tests need of the kernel that Debian builds as modules.
modules=(veth dummy nf_tables nft_numgen nft_ct nft_nat nft_chain_nat nft_reject_inet nft_limit nft_counter nf_conntrack tcp_diag inet_diag)

guest() { # package
  local package=$1 release=${1#linux-image-} root="$dir/$1"
  rm -rf "$root" "$root.deb.d"
  mkdir -p "$root"/{bin,proc,sys,dev,tmp,run,etc,var/run} "$root.deb.d"
  (cd "$dir" && ls "${package}"_*.deb >/dev/null 2>&1 || apt-get download -q "$package" >/dev/null)
  dpkg-deb -x "$dir/${package}"_*.deb "$root.deb.d"
  depmod -b "$root.deb.d" "$release"
  for module in "${modules[@]}"; do
    modprobe -d "$root.deb.d" -S "$release" -D "$module" 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p' || true
  done | awk '!seen[$0]++' | while read -r file; do
    install -D "$file" "$root/modules/$(basename "$file")"
    echo "insmod /modules/$(basename "$file")"
  done >"$root/modules.sh"
  cp /bin/busybox "$root/bin/busybox"
  for name in sh mount insmod poweroff cat ls sleep mkdir; do ln -s busybox "$root/bin/$name"; done
  with_libraries "$(command -v nft)"
  with_libraries "$(command -v ip)"
  cp "$dir/probe.test" "$root/probe.test"
  cat >"$root/init" <<'INIT'
#!/bin/sh
export PATH=/bin:/usr/bin:/usr/sbin:/sbin HOME=/tmp CI=true GODEBUG=asyncpreemptoff=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 none /sys/fs/cgroup
mount -t tracefs none /sys/kernel/tracing
. /modules.sh
ip link set lo up
cd /tmp
echo "guest: $(cat /proc/version)"
/probe.test -test.v -test.timeout 15m -test.count 1 -test.skip "$SKIP" -test.run "$TESTS"
echo "guest-status $?"
poweroff -f
INIT
  chmod +x "$root/init"
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$root.initrd"
  echo "== $release"
  timeout "${LIMIT:-600}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max,cx16=off -machine q35 -smp 2 -m 2048 -nographic -no-reboot -nodefaults -serial stdio \
    -kernel "$root.deb.d/boot/vmlinuz-$release" -initrd "$root.initrd" \
    -append "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable TESTS=$TESTS SKIP=$SKIP" </dev/null | tr -d '\r' | tee "$dir/$release.log" | grep -vE '^\s*$' | grep -E "^guest|^ *--- FAIL|_test.go|^panic|^FAIL|^ok"
  rm -rf "$root" "$root.deb.d" "$root.initrd" "$root.modules"
  grep -q '^guest-status 0$' "$dir/$release.log"
}

failed=0
for package in "${packages[@]}"; do
  guest "$package" || { echo "kernels.sh: the tests fail on ${package#linux-image-}: $dir/${package#linux-image-}.log" >&2; failed=1; }
done
exit $failed
