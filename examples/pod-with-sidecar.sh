#!/bin/sh
# A pod of two containers in one machine: a service, and a sidecar that writes what the service serves. The service is
# published at a free port of 127.0.0.1, and its data outlives both in a volume.
set -eu
id=$$
trap 'capsid pod rm -f "pod-$id" >/dev/null 2>&1; capsid volume rm "data-$id" >/dev/null 2>&1' EXIT
capsid pod create --name "pod-$id" --memory 256m -p 127.0.0.1::80 >/dev/null
capsid run -d --pod "pod-$id" --name "writer-$id" -v "data-$id:/data" busybox \
    sh -c 'echo "written by the sidecar" >/data/index.html; exec sleep 1000' >/dev/null
capsid run -d --pod "pod-$id" --name "server-$id" -v "data-$id:/data:ro" busybox httpd -f -p 80 -h /data >/dev/null
capsid exec "server-$id" sh -c 'until printf "GET / HTTP/1.0\r\n\r\n" | nc -w 3 127.0.0.1 80 2>/dev/null | grep "^written"; do sleep 0.2; done'
capsid port "server-$id" | sed 's|:[0-9]*$|:PORT|'
