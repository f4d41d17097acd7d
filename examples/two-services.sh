#!/bin/sh
# Two containers, each in a machine of its own, on a network of their own: one serves, the other asks it by name.
set -eu
id=$$
trap 'capsid rm -f "web-$id" >/dev/null 2>&1; capsid network rm "shop-$id" >/dev/null 2>&1' EXIT
capsid network create --internal "shop-$id" >/dev/null
capsid run -d --network "shop-$id" --network-alias www --name "web-$id" busybox \
    sh -c 'mkdir /www; echo "served by another machine" >/www/index.html; exec httpd -f -p 80 -h /www' >/dev/null
capsid run --rm --network "shop-$id" busybox \
    sh -c 'until printf "GET / HTTP/1.0\r\n\r\n" | nc -w 3 www 80 2>/dev/null | grep "^served"; do sleep 0.2; done'
