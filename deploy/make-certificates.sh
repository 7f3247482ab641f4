#!/bin/sh
# Make what masters and agents of a trial cluster need to trust each other, in one folder:
# an own authority, one certificate for all masters, an admin token and a node token.
#
#   deploy/make-certificates.sh FOLDER HOST...      hosts: names and addresses under which masters are reached
#
# Needs openssl. What is there already is kept. For real fleets take certificates from your own authority.
set -eu

[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1
shift
umask 077
mkdir -p "$folder"
cd "$folder"

names=
for host in "$@"; do
    case $host in
        *[!0-9.]*) names="$names,DNS:$host" ;;
        *) names="$names,IP:$host" ;;
    esac
done

if [ ! -s ca.crt ]; then
    openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj '/CN=HSU Cluster trial authority' \
        -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
        -keyout ca.key -out ca.crt 2>/dev/null
fi
if [ ! -s master.crt ]; then
    openssl req -newkey rsa:3072 -nodes -subj "/CN=$1" -keyout master.key -out master.csr 2>/dev/null
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "${names#,}" >master.ext
    openssl x509 -req -in master.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 825 \
        -extfile master.ext -out master.crt 2>/dev/null
    rm -f master.csr master.ext
fi
for token in admin node; do
    [ -s "$token.token" ] || echo "hsu_$(openssl rand -hex 32)" >"$token.token"
done
chmod 644 ca.crt master.crt
echo "certificates and tokens are in $folder; keep ca.key away from every host" >&2
