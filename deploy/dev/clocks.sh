#!/usr/bin/env bash
# Makes what the virtual machine of `make test-clocks` boots, in DIR: vmlinuz, and initrd with the exporter, the modules of a network card and the test binary as the
# first process.
#
#   clocks.sh DIR EXPORTER [PACKAGE]
#
# Without a package: the newest cloud kernel of Debian's 6.1.
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: clocks.sh DIR EXPORTER [PACKAGE]" >&2; exit 2; }
dir=$(realpath -m "$1") exporter=$(realpath "$2") package=${3:-}
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$dir"
[ -n "$package" ] || package=$(apt-cache search --names-only '^linux-image-6\.1\.0[0-9.+a-z-]*-cloud-amd64$' | cut -d' ' -f1 | sort -V | tail -1)
[ -n "$package" ] || { echo "clocks.sh: apt knows no kernel: apt-get update" >&2; exit 3; }
release=${package#linux-image-}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

(cd "$dir" && ls "${package}"_*.deb >/dev/null 2>&1 || apt-get download -q "$package" >/dev/null)
dpkg-deb -x "$dir/${package}"_*.deb "$root/deb"
cp "$root/deb/boot/vmlinuz-$release" "$dir/vmlinuz"
depmod -b "$root/deb" "$release"
mkdir -p "$root/guest/modules"
for module in virtio_pci virtio_net tcp_diag inet_diag; do
  modprobe -d "$root/deb" -S "$release" -D "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | nl -n rz | while read -r number file; do
  cp "$file" "$root/guest/modules/$number-$(basename "$file")"
done
CGO_ENABLED=0 go test -c -o "$root/guest/init" ./deploy/world/clocks
cp "$exporter" "$root/guest/tributary-exporter"
mkdir "$root"/guest/{proc,sys,dev,tmp,run}
(cd "$root/guest" && find . | cpio -o -H newc --quiet | gzip -1) >"$dir/initrd"
