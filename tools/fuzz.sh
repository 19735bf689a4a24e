#!/bin/sh
# Runs every fuzz target of the module for a while.
# Usage: tools/fuzz.sh [TIME [NUMBER]]
#   TIME    for each, as go test -fuzztime takes it; 30s if absent
#   NUMBER  of targets that run side by side; 1 if absent
set -eu
trap 'exit 1' HUP INT TERM

# one runs a target, and prints the end of its output, or all of it if the target failed.
one() {
    fuzztime=$1 pkg=$2 name=$3
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    echo "fuzz $pkg $name $fuzztime"
    minimize=5s
    # An input to the whole worker never covers quite the same twice, so that its time
    # would go into making small what is nothing new.
    if [ "$name" = FuzzForged ]; then minimize=1x; fi
    if go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" -fuzzminimizetime "$minimize" "$pkg" \
        >"$log" 2>&1 </dev/null; then
        printf 'fuzz %s %s: passed\n%s\n' "$pkg" "$name" "$(tail -n 3 "$log")"
        exit 0
    fi
    # Before Go 1.27 the end of the time may be reported as a failure of its own, without
    # a failing input: https://go.dev/issue/75804
    if awk '/--- FAIL:/ { fails++; if (getline && $0 == "    context deadline exceeded") late++ }
            END { exit !(fails == 1 && late == 1) }' "$log"; then
        echo "fuzz $pkg $name: time is over, no failing input"
        exit 0
    fi
    printf 'fuzz %s %s: FAILED\n%s\n' "$pkg" "$name" "$(cat "$log")"
    exit 1
}

if [ "${1:-}" = --one ]; then
    shift
    one "$@"
fi

list=$(mktemp)
log=$(mktemp)
trap 'rm -f "$list" "$log"' EXIT

# Only packages that have a target are built. go test -list prints the names of a package's
# targets and then its "ok" line.
packages=$(grep -rl --include='*_test.go' '^func Fuzz' . | sed 's|/[^/]*$||' | sort -u)
# shellcheck disable=SC2086
go test -list '^Fuzz' $packages >"$log" || { cat "$log"; exit 1; }
awk '/^Fuzz/ { names[++n] = $1 }
     $1 == "ok" { for (i = 1; i <= n; i++) print $2, names[i]; n = 0 }' "$log" >"$list"
if [ ! -s "$list" ]; then
    echo "no fuzz targets"
    exit 1
fi
# Where one fails, the others go on, and it fails in the end.
xargs -n 2 -P "${2:-1}" "$0" --one "${1:-30s}" <"$list"
