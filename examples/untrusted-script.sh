#!/bin/sh
# Runs a script that is not trusted: no network, a read-only root and input, little memory, one result file.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/in" "$work/out"
printf '3\n4\n5\n' >"$work/in/numbers"
cat >"$work/in/script" <<'EOF'
sum=0
while read -r number; do sum=$((sum + number)); done </in/numbers
echo "$sum" >/out/sum
nc -w 3 203.0.113.5 80 </dev/null 2>/dev/null || echo 'no network'
touch /changed 2>/dev/null || echo 'read-only root'
EOF
capsid run --rm --egress none --read-only -m 64m --pids-limit 20 -v "$work/in:/in:ro" -v "$work/out:/out" busybox sh /in/script
echo "sum: $(cat "$work/out/sum")"
