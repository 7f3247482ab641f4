#!/bin/sh
# Put newer etcd programs under .cache/etcd/<version>/etcd, for the store tests.
#
# They are taken out of Debian's packages of later suites, without installing anything: the
# machine's own apt sources are read with the suite replaced. What is there already is skipped;
# a suite that fails is reported and does not stop the rest. Exit status: 0, always, unless the
# tools themselves are missing.
#
#   .ci/fetch-etcd.sh [suite ...]        default: trixie forky
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
cache="$root/.cache/etcd"
[ $# -gt 0 ] || set -- trixie forky

for tool in apt-get dpkg dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "fetch-etcd: no $tool here: only Debian-like systems are served" >&2; exit 1; }
done

# Print a one-line-style source for suite $1, derived from the first Debian entry of this machine.
source_line() {
    awk -v suite="$1" '
        function emit(uri, signed) {
            option = signed == "" ? "" : "[signed-by=" signed "] "
            print "deb " option uri " " suite " main"
            done = 1
            exit
        }
        /^[[:space:]]*#/ { next }
        $1 == "deb" {                                         # one-line style
            field = 2; signed = ""
            while ($field ~ /^\[/ || (field > 2 && $(field - 1) !~ /\]$/ && $2 ~ /^\[/ && $field !~ /:\//)) {
                if (match($field, /signed-by=[^] ]+/)) signed = substr($field, RSTART + 10, RLENGTH - 10)
                field++
            }
            if ($field !~ /security/) emit($field, signed)
        }
        $1 == "Types:" { uri = ""; suites = ""; signed = "" }  # deb822 style
        $1 == "URIs:" { uri = $2 }
        $1 == "Suites:" { suites = $0 }
        $1 == "Signed-By:" { signed = $2 }
        NF == 0 && uri != "" && uri !~ /security/ && uri ~ /debian/ { emit(uri, signed) }
        END { if (!done && uri != "" && uri !~ /security/ && uri ~ /debian/) emit(uri, signed) }
    ' $(find /etc/apt -maxdepth 2 \( -name '*.list' -o -name '*.sources' \) | sort) /dev/null
}

fetch() (
    suite=$1
    marker="$cache/.$suite"
    if [ -f "$marker" ] && [ -x "$cache/$(cat "$marker")/etcd" ]; then
        echo "fetch-etcd: $suite: $(cat "$marker") is there already"
        exit 0
    fi
    line=$(source_line "$suite")
    [ -n "$line" ] || { echo "fetch-etcd: $suite: no Debian source among this machine's apt sources" >&2; exit 1; }
    work=$(mktemp -d) || exit 1
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' INT TERM
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/tree" "$cache"
    echo "$line" >"$work/sources.list"
    apt() {
        apt-get -qq -o DPkg::Lock::Timeout=300 -o APT::Sandbox::User=root \
            -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
            -o Dir::State::lists="$work/lists" -o Dir::Cache::archives="$work/archives" \
            -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none "$@"
    }
    cd "$work" || exit 1
    apt update || { echo "fetch-etcd: $suite: cannot read the package lists" >&2; exit 1; }
    apt download etcd-server || { echo "fetch-etcd: $suite: cannot download etcd-server" >&2; exit 1; }
    dpkg-deb -x etcd-server_*.deb "$work/tree" || exit 1
    version=$("$work/tree/usr/bin/etcd" --version | awk '/^etcd Version:/ { print $3 }')
    [ -n "$version" ] || { echo "fetch-etcd: $suite: the program does not run here" >&2; exit 1; }
    mkdir -p "$cache/$version"
    mv "$work/tree/usr/bin/etcd" "$cache/$version/etcd.new" && mv "$cache/$version/etcd.new" "$cache/$version/etcd"
    echo "$version" >"$marker"
    echo "fetch-etcd: $suite: $version is in $cache/$version"
)

for suite in "$@"; do
    fetch "$suite" || echo "fetch-etcd: $suite FAILED; the tests run on the etcd versions that are there" >&2
done
exit 0
