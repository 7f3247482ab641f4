#!/bin/sh
# Make .venv ready: `tools/setup.sh` what a user needs, `tools/setup.sh dev` what tests and checks need too.
# `tools/setup.sh --find` only prints the Python it would take.
#
# Needs only a Python 3.11 or newer with `venv` (PYTHON=/path/to/python names one) and pip's index.
# Does nothing when .venv was made from this pyproject.toml already; `rm -rf .venv` starts over.
set -eu

cd "$(dirname "$0")/.."
kind=${1:-user}
venv=.venv
stamp="$venv/.ready-$kind"

# Print the first Python that is new enough, can make virtual environments and has SQLite.
find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3 python \
        "$HOME"/.pyenv/versions/*/bin/python3.13 "$HOME"/.pyenv/versions/*/bin/python3.12 \
        "$HOME"/.pyenv/versions/*/bin/python3.11 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11 \
        /usr/bin/python3 /usr/local/bin/python3 /opt/homebrew/bin/python3; do
        if "$candidate" -c '
import sys, ensurepip, sqlite3, ssl, venv
raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    echo "setup: no Python 3.11 or newer with venv, ssl and sqlite3 was found;" \
        "install one (Debian: python3 python3-venv) or name it with PYTHON=/path/to/python3.12" >&2
    return 1
}

if [ "$kind" = --find ]; then
    find_python
    exit
fi

wanted="$(cksum <pyproject.toml) $(pwd)"
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ] &&
    "$venv/bin/python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
    exit 0
fi

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "setup: $("$python" -V) from $python"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
pip="$venv/bin/python -m pip -qq --disable-pip-version-check"
$pip install --upgrade 'pip>=25.1' # dependency groups
if [ "$kind" = dev ]; then
    echo "setup: installing the product and the tools for tests into $venv"
    $pip install --editable . --group dev
else
    echo "setup: installing the product into $venv"
    $pip install --editable .
fi
echo "$wanted" >"$stamp"
