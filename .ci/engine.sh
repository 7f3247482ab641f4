#!/usr/bin/env bash
# A Docker engine for the tests in containers, and images for it where no registry can be reached.
#
#   .ci/engine.sh up      make engine, plugins and images ready; what is there already is kept
#   .ci/engine.sh down    stop the engine that `up` has started, and no other
#
# Where an engine answers it is taken as it is, and where a registry answers the ordinary images are. What the tests (and
# `docker compose`) have to know is written to .cache/engine/env: BASE, ETCD_IMAGE, HAPROXY_IMAGE, PROMETHEUS_IMAGE, PIP_CA,
# DOCKER_CONFIG. The images without a registry are made of the machine's own Debian: one tree with Python, HAProxy,
# Prometheus and iptables, and the newest etcd that .ci/fetch-etcd.sh has found.
set -euo pipefail

cd "$(dirname "$0")/.."
engine_dir=${HSU_ENGINE_DIR:-/var/lib/hsu-test-engine}
pid_file="$engine_dir/dockerd.pid"
env_file=.cache/engine/env
plugins=$PWD/.cache/engine/docker
stand_in=hsu-test/stand-in:1
packages=ca-certificates,python3,python3-venv,python-is-python3,passwd,procps,iptables,iproute2,haproxy,prometheus
: "${BASE:=python:3.12-slim}" "${ETCD_IMAGE:=quay.io/coreos/etcd:v3.5.30}"
: "${HAPROXY_IMAGE:=haproxy:3.0}" "${PROMETHEUS_IMAGE:=prom/prometheus:v3.5.0}"
export DEBIAN_FRONTEND=noninteractive

say() { echo "engine: $*"; }
fail() { echo "engine: $*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
answers() { timeout 20 docker info >/dev/null 2>&1; }

install_missing() { # PROGRAM=PACKAGE...
    local missing=() each
    for each in "$@"; do
        PATH="$PATH:/usr/sbin" command -v "${each%%=*}" >/dev/null || missing+=("${each##*=}")
    done
    [ "${#missing[@]}" -eq 0 ] && return
    say "installing ${missing[*]}"
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}" >/dev/null
}

start_engine() {
    answers && return
    install_missing docker=docker.io dockerd=docker.io iptables=iptables
    as_root mkdir -p "$engine_dir"
    say "starting dockerd with $engine_dir"
    as_root sh -c "exec setsid dockerd --data-root '$engine_dir/data' --pidfile '$pid_file' \
        --host unix:///var/run/docker.sock >>'$engine_dir/dockerd.log' 2>&1" >/dev/null 2>&1 </dev/null &
    local _
    for _ in $(seq 120); do
        answers && return
        sleep 0.5
    done
    as_root tail -n 20 "$engine_dir/dockerd.log" >&2 || true
    fail "dockerd does not answer within 60 s; its log is $engine_dir/dockerd.log"
}

# `docker compose`, and `docker build` of the newer command lines, are plugins.
find_plugins() {
    docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return
    export DOCKER_CONFIG=$plugins
    docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return
    local tree
    tree=$(mktemp -d)
    if .ci/fetch-deb.sh trixie "$tree" docker-compose docker-buildx; then
        mkdir -p "$plugins/cli-plugins"
        find "$tree" -type f -path '*/cli-plugins/docker-*' -exec cp {} "$plugins/cli-plugins/" \;
    fi
    rm -rf "$tree"
    docker compose version >/dev/null 2>&1 || say "there is no docker compose, and it could not be fetched"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }
can_have() { has_image "$1" || timeout 300 docker pull -q "$1" >/dev/null 2>&1; }

make_stand_in() {
    has_image "$stand_in" && return
    install_missing mmdebstrap=mmdebstrap
    local sources suite
    sources=$(find /etc/apt -maxdepth 2 \( -name '*.list' -o -name '*.sources' \) -exec grep -l debian.org {} + | sort | head -n 1)
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    [ -n "$sources" ] || fail "no registry, and no Debian source among this machine's apt sources: there are no images"
    say "making $stand_in of $suite"
    as_root mmdebstrap --quiet --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" - "$sources" |
        docker import -c 'CMD ["python3"]' - "$stand_in" >/dev/null
}

choose_images() {
    can_have "$BASE" || { make_stand_in; BASE=$stand_in; }
    can_have "$HAPROXY_IMAGE" || { make_stand_in; HAPROXY_IMAGE=$stand_in; }
    can_have "$PROMETHEUS_IMAGE" || { make_stand_in; PROMETHEUS_IMAGE=$stand_in; }
    can_have "$ETCD_IMAGE" && return
    make_stand_in
    local etcd etcdctl version context
    etcd=$(ls -d .cache/etcd/*/etcd 2>/dev/null | sort -V | tail -n 1)
    etcd=${etcd:-$(command -v etcd)} || fail "no registry and no etcd: run .ci/fetch-etcd.sh"
    etcdctl=$(command -v etcdctl) || fail "no registry and no etcdctl: install etcd-client"
    version=$("$etcd" --version | awk '/^etcd Version:/ { print $3 }')
    ETCD_IMAGE=hsu-test/etcd:$version
    has_image "$ETCD_IMAGE" && return
    say "making $ETCD_IMAGE"
    context=$(mktemp -d)
    cp "$etcd" "$etcdctl" "$context/"
    printf 'FROM %s\nCOPY etcd etcdctl /usr/local/bin/\nCMD ["etcd"]\n' "$stand_in" >"$context/Dockerfile"
    docker build -q -t "$ETCD_IMAGE" "$context" >/dev/null
    rm -rf "$context"
}

up() {
    start_engine
    find_plugins
    choose_images
    mkdir -p "$(dirname "$env_file")"
    {
        printf '%s=%s\n' BASE "$BASE" ETCD_IMAGE "$ETCD_IMAGE"
        printf '%s=%s\n' HAPROXY_IMAGE "$HAPROXY_IMAGE" PROMETHEUS_IMAGE "$PROMETHEUS_IMAGE"
        printf '%s=%s\n' PIP_CA "${PIP_CA:-${PIP_CERT:-/dev/null}}"
        [ -z "${DOCKER_CONFIG:-}" ] || printf '%s=%s\n' DOCKER_CONFIG "$DOCKER_CONFIG"
    } >"$env_file.new"
    mv "$env_file.new" "$env_file"
    say "ready: $(tr '\n' ' ' <"$env_file")"
}

down() {
    as_root test -f "$pid_file" || return 0
    local pid
    pid=$(as_root cat "$pid_file")
    if [ "$(ps -o comm= -p "$pid" 2>/dev/null)" = dockerd ]; then
        say "stopping dockerd ($pid)"
        as_root kill "$pid"
        local _
        for _ in $(seq 60); do
            [ -d "/proc/$pid" ] || return 0
            sleep 0.5
        done
        fail "dockerd ($pid) does not end; see $engine_dir/dockerd.log"
    fi
}

case "${1:-}" in
up) up ;;
down) down ;;
*) fail "usage: .ci/engine.sh up|down" ;;
esac
