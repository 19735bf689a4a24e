#!/bin/sh
# Runs every fuzz target of the module for a while, one after another.
# Usage: tools/fuzz.sh [TIME]    TIME as go test -fuzztime takes it, 30s if absent
set -eu
fuzztime=${1:-30s}

list=$(mktemp)
log=$(mktemp)
trap 'rm -f "$list" "$log"' EXIT
trap 'exit 1' HUP INT TERM

# go test -list prints the names of a package's targets and then its "ok" line.
go test -list '^Fuzz' ./... >"$log" || { cat "$log"; exit 1; }
awk '/^Fuzz/ { names[++n] = $1 }
     $1 == "ok" { for (i = 1; i <= n; i++) print $2, names[i]; n = 0 }' "$log" >"$list"
if [ ! -s "$list" ]; then
    echo "no fuzz targets"
    exit 0
fi

failed=0
while read -r pkg name; do
    echo "fuzz $pkg $name $fuzztime"
    minimize=5s
    # An input to the whole worker never covers quite the same twice, so that its time
    # would go into making small what is nothing new.
    if [ "$name" = FuzzForged ]; then minimize=1x; fi
    if go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" -fuzzminimizetime "$minimize" "$pkg" \
        >"$log" 2>&1 </dev/null; then
        tail -n 3 "$log"
        continue
    fi
    # Before Go 1.27 the end of the time may be reported as a failure of its own, without
    # a failing input: https://go.dev/issue/75804
    if awk '/--- FAIL:/ { fails++; if (getline && $0 == "    context deadline exceeded") late++ }
            END { exit !(fails == 1 && late == 1) }' "$log"; then
        echo "fuzz $pkg $name: time is over, no failing input"
        continue
    fi
    cat "$log"
    failed=1
done <"$list"
exit "$failed"
