#!/bin/sh
# Unpack packages of another Debian suite into a folder, without installing anything.
#
# The machine's own apt sources are read with the suite replaced, into lists of their own: the system's are not touched.
# Exit status: 0 when all of them are unpacked.
#
#   .ci/fetch-deb.sh SUITE FOLDER PACKAGE...
set -u

suite=$1 folder=$2
shift 2
for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "fetch-deb: no $tool here: only Debian-like systems are served" >&2; exit 1; }
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

line=$(source_line "$suite")
[ -n "$line" ] || { echo "fetch-deb: $suite: no Debian source among this machine's apt sources" >&2; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir -p "$work/lists/partial" "$work/archives/partial" "$folder" || exit 1
folder=$(cd "$folder" && pwd)
echo "$line" >"$work/sources.list"
apt() {
    apt-get -qq -o DPkg::Lock::Timeout=300 -o APT::Sandbox::User=root \
        -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$work/lists" -o Dir::Cache::archives="$work/archives" \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none "$@"
}
cd "$work" || exit 1
apt update || { echo "fetch-deb: $suite: cannot read the package lists" >&2; exit 1; }
apt download "$@" || { echo "fetch-deb: $suite: cannot download $*" >&2; exit 1; }
for package in *.deb; do
    dpkg-deb -x "$package" "$folder" || exit 1
done
