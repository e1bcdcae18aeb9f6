#!/bin/sh
# Certificates for mutual TLS: an authority of your own, and per region what its server and its client show.
#
#   deploy/certificates.sh FOLDER REGION=NAME[,NAME...] ...
#   deploy/certificates.sh certs worker=worker.example,10.0.0.2 controller=controller.example
#
# FOLDER/REGION has ca.crt, server.crt, server.key, client.crt and client.key. NAMEs are how others reach the region's
# server: host names or IP addresses; localhost and 127.0.0.1 are always among them. FOLDER/ca.key signs further ones: run
# it again with another region, or to renew, and keep that file where no server is. DAYS=825 says how long they last.
set -eu

folder=${1:?FOLDER REGION=NAME,... : see the head of this file}
shift
[ $# -gt 0 ] || { echo "give at least one REGION=NAME[,NAME...]" >&2; exit 2; }
days=${DAYS:-825}
umask 077
mkdir -p "$folder"

# openssl shows its progress; only what it says of a failure is wanted.
quietly() {
    said=$("$@" 2>&1) || { echo "$said" >&2; exit 1; }
}

if [ ! -f "$folder/ca.key" ]; then
    quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=wanspec authority" \
        -keyout "$folder/ca.key" -out "$folder/ca.crt"
fi

# certificate REGION-FOLDER NAME USAGE ALTERNATIVES
certificate() {
    quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$(basename "$1") $2" \
        -keyout "$1/$2.key" -out "$1/$2.csr"
    printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$3" "$4" \
        > "$1/$2.ext"
    quietly openssl x509 -req -in "$1/$2.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
        -days "$days" -sha256 -extfile "$1/$2.ext" -out "$1/$2.crt"
    rm "$1/$2.csr" "$1/$2.ext"
}

for region in "$@"; do
    case $region in
        ?*=?*) ;;
        *) echo "$region is not REGION=NAME[,NAME...]" >&2; exit 2 ;;
    esac
    name=${region%%=*}
    alternatives=DNS:localhost,IP:127.0.0.1
    for host in $(printf %s "${region#*=}" | tr , ' '); do
        case $host in
            *:* | *[!0-9.]*) [ "${host#*:}" = "$host" ] && kind=DNS || kind=IP ;;
            *) kind=IP ;;
        esac
        alternatives=$alternatives,$kind:$host
    done
    mkdir -p "$folder/$name"
    cp "$folder/ca.crt" "$folder/$name/ca.crt"
    certificate "$folder/$name" server serverAuth "$alternatives"
    certificate "$folder/$name" client clientAuth "DNS:$name"
done
echo "wrote $folder: ca.key (keep it off the servers) and, per region, ca.crt server.crt server.key client.crt client.key"
