#!/bin/sh
# Fetches libchdb.so, the ClickHouse engine as a shared library, which the collector's embedded store loads.
#
#   deploy/dev/fetch-engine.sh [DESTINATION]      default: bin/libchdb.so
#
# It comes from the npm registry by name, with the npm client, and is used only if it is byte for byte the package pinned below.
# The unpacked library is kept in ${XDG_CACHE_HOME:-$HOME/.cache}/tributary, so that a second clone downloads nothing.
set -eu

package=@chdb/lib-linux-x64-gnu
version=26.5.3
# The registry's integrity of that version's tarball (npm view PACKAGE@VERSION dist.integrity), and the library's own hash inside it.
tarball_sha512='fPrLmRt5Moor9yGz4mazbrNje4t7X9KB2mTGkXFWRxRBs2iKy8yh6jx11xsa0Qr3iDFMU/yHqd+bVdYJXu3QaQ=='
library_sha256=4330da79405733f7572f27c1442f46c03a08301f00859dce0368645731b1e1dc

destination=${1:-bin/libchdb.so}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tributary
cached=$cache/libchdb-$version.so

fail() { echo "fetch-engine: $*" >&2; exit 1; }
right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$library_sha256" ]; }

# A stamp beside the destination says which file was checked, so that a further call need not hash half a gigabyte.
stamp=$destination.stamp
identity() { stat -c "$library_sha256 %s %Y %i" "$destination" 2>/dev/null || echo none; }
place() {
	mkdir -p "$(dirname "$destination")"
	# A hard link costs no space where cache and destination share a file system.
	ln "$cached" "$destination.tmp.$$" 2>/dev/null || cp "$cached" "$destination.tmp.$$"
	mv -f "$destination.tmp.$$" "$destination"
	identity >"$stamp"
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "there is no pinned engine for $(uname -s) $(uname -m); give the collector a server with --clickhouse URL"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(identity)" ]; then
	exit 0
fi
if right "$destination"; then
	identity >"$stamp"
	exit 0
fi
if right "$cached"; then
	place
	exit 0
fi

command -v npm >/dev/null || fail "npm is missing (Debian: apt-get install npm)"
work=$(mktemp -d "${TMPDIR:-/tmp}/tributary-engine.XXXXXX")
trap 'rm -rf "$work"; rm -f "$cached.tmp.$$" "$destination.tmp.$$"' EXIT
trap 'exit 1' INT TERM
echo "fetch-engine: downloading $package $version (166 MB)" >&2
(cd "$work" && npm pack --silent "$package@$version" >/dev/null) || fail "npm could not fetch $package@$version"
set -- "$work"/*.tgz
[ $# -eq 1 ] && [ -f "$1" ] || fail "npm left no single tarball"
got=$(sha512sum "$1" | cut -d' ' -f1 | fold -w2 | sed 's/^/0x/' | while read -r byte; do printf "\\$(printf %03o "$byte")"; done | base64 -w0)
[ "$got" = "$tarball_sha512" ] || fail "the tarball's sha512 is $got, not the pinned one: not used"
mkdir -p "$cache"
tar -xzOf "$1" package/libchdb.so >"$cached.tmp.$$"
chmod 0755 "$cached.tmp.$$"
right "$cached.tmp.$$" || fail "the library inside the tarball is not the pinned one"
mv -f "$cached.tmp.$$" "$cached"
place
