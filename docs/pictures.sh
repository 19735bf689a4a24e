#!/bin/sh
# Takes the pictures of the manual: docs/status-page.png, docs/status-page-dark.png
# and docs/dashboard.png.
#
# Use, from the root of the repository, by hand:
#
#   docs/pictures.sh
#
# It starts a sandbox on free ports, a Prometheus that scrapes its worker every
# two seconds, and sends requests for four minutes: most are done at once, some
# have no device, are throttled, fail on the device, or concern a device that is
# off. In between, Graph is away for 20 seconds. Then it takes the status page
# with a headless Chromium and draws panels of the dashboard with
# docs/dashboard.py. It needs Go, Python 3, curl, chromium and prometheus.
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
pids=
trap 'for p in $pids; do kill "$p" 2>/dev/null || :; done; wait; rm -rf "$work"' EXIT
go build -o "$work/worker" ./cmd/worker
go build -o "$work/sandbox" ./cmd/sandbox

free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
nats=$(free) graph=$(free) http=$(free) prom=$(free)

"$work/sandbox" --serve --nats-port="$nats" --graph-addr="127.0.0.1:$graph" --http-addr="127.0.0.1:$http" \
	--ca-file="$work/ca.pem" >"$work/served" 2>"$work/log" &
pids="$pids $!"
cat >"$work/prometheus.yaml" <<EOF
global: {scrape_interval: 2s}
scrape_configs:
  - job_name: passcode-worker
    static_configs: [{targets: ["127.0.0.1:$http"]}]
EOF
prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/tsdb" --web.listen-address="127.0.0.1:$prom" \
	--log.level=error 2>"$work/prometheus.log" &
pids="$pids $!"
until curl -sf "http://127.0.0.1:$http/readyz" >/dev/null && curl -sf "http://127.0.0.1:$prom/-/ready" >/dev/null; do sleep 1; done
eval "$(grep '^  export' "$work/served")"

# requests WHICH prints one second's requests.
requests() {
	python3 - "$1" <<'EOF'
import json, random, sys
t = int(sys.argv[1])
random.seed(t)
for i in range(random.choice([2, 4, 5, 7]) if t % 60 < 50 else 14):
    n = 581000 + 20 * t + i
    device = f"600d0000-0000-4000-8000-{n:012d}"
    r = random.random()
    if r < 0.03:
        device = f"dead0404-0000-0000-0000-{n:012d}"
    elif r < 0.06:
        device = f"dead0429-0001-0001-0000-{n:012d}"
    elif r < 0.09:
        device = f"dead0801-0004-0000-0000-{n:012d}"
    elif r < 0.13:
        device = f"dead0806-0000-0010-0000-{n:012d}"
    elif r < 0.20:
        device = f"dead0805-0040-0000-0000-{n:012d}"
    print(json.dumps({"id": f"INC0{n}", "managedDeviceId": device, "requestedBy": "jo"}))
EOF
}

for t in $(seq 240); do
	requests "$t" >"$work/list.jsonl"
	"$work/worker" send --file "$work/list.jsonl" >/dev/null 2>&1
	[ "$t" != 120 ] || curl -sk -X POST "https://127.0.0.1:$graph/_sim/outage?kind=503&for=20s" >/dev/null
	[ "$t" != 237 ] || "$work/worker" send --device dead0404-0000-0000-0000-000000586999 --id INC0586999 >/dev/null
	sleep 0.9
done

# The page asks for itself every five seconds, so the picture is taken of a page that has just been loaded.
page() {
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=1 --window-size=1100,1180 \
		--user-data-dir="$work/profile$2" $3 --screenshot="$work/$1" "http://127.0.0.1:$http/" 2>"$work/chromium.log"
	cp "$work/$1" "docs/$1"
}
page status-page.png 1 ''
page status-page-dark.png 2 --blink-settings=preferredColorScheme=0

python3 docs/dashboard.py "http://127.0.0.1:$prom" 240 >"$work/dashboard.html"
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=1 --window-size=1200,862 \
	--user-data-dir="$work/profile3" --screenshot="$work/dashboard.png" "file://$work/dashboard.html" 2>"$work/chromium.log"
cp "$work/dashboard.png" docs/dashboard.png
