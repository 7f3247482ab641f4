#!/bin/sh
# Put newer etcd programs under .cache/etcd/<version>/etcd, for the store tests.
#
# They are taken out of Debian's packages of later suites, without installing anything (fetch-deb.sh). What is there
# already is skipped; a suite that fails is reported and does not stop the rest. Exit status: 0, always.
#
#   .ci/fetch-etcd.sh [suite ...]        default: trixie forky
set -u

cd "$(dirname "$0")/.." || exit 1
cache=.cache/etcd
[ $# -gt 0 ] || set -- trixie forky

fetch() (
    suite=$1
    marker="$cache/.$suite"
    if [ -f "$marker" ] && [ -x "$cache/$(cat "$marker")/etcd" ]; then
        echo "fetch-etcd: $suite: $(cat "$marker") is there already"
        exit 0
    fi
    tree=$(mktemp -d) || exit 1
    trap 'rm -rf "$tree"' EXIT
    trap 'exit 1' INT TERM
    .ci/fetch-deb.sh "$suite" "$tree" etcd-server || exit 1
    version=$("$tree/usr/bin/etcd" --version | awk '/^etcd Version:/ { print $3 }')
    [ -n "$version" ] || { echo "fetch-etcd: $suite: the program does not run here" >&2; exit 1; }
    mkdir -p "$cache/$version"
    mv "$tree/usr/bin/etcd" "$cache/$version/etcd.new" && mv "$cache/$version/etcd.new" "$cache/$version/etcd"
    echo "$version" >"$marker"
    echo "fetch-etcd: $suite: $version is in $cache/$version"
)

for suite in "$@"; do
    fetch "$suite" || echo "fetch-etcd: $suite FAILED; the tests run on the etcd versions that are there" >&2
done
exit 0
