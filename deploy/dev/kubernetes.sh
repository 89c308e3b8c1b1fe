#!/usr/bin/env bash
# Builds the Kubernetes API server that `make test-kubernetes` runs, and prints where it is.
#
# Its version stands in kubernetes/go.mod. The program is kept in ${XDG_CACHE_HOME:-~/.cache}/tributary, so that it is built once a machine: about five
# minutes of processor time, at low priority.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's:^require k8s.io/kubernetes \(v[0-9.]*\)$:\1:p' "$here/kubernetes/go.mod")
[ -n "$version" ] || { echo "kubernetes.sh: kubernetes/go.mod names no version" >&2; exit 1; }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tributary
server=$cache/kube-apiserver-$version

mkdir -p "$cache"
exec 8>"$cache/kube-apiserver.lock"
flock 8 # a second clone waits for the first one's build
if [ ! -x "$server" ]; then
  echo "kubernetes.sh: building kube-apiserver $version (some minutes)" >&2
  # The file appears by one rename, so that it is whole or not there.
  (cd "$here/kubernetes" && CGO_ENABLED=0 nice -n 10 go build -trimpath -ldflags '-s -w' -o "$server.part" k8s.io/kubernetes/cmd/kube-apiserver)
  mv -f "$server.part" "$server"
fi
echo "$server"
