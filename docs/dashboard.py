#!/usr/bin/env python3
"""Draws panels of deploy/grafana/passcode-worker.json as one page of HTML.

    docs/dashboard.py http://PROMETHEUS SECONDS > dashboard.html

It asks a Prometheus for each query of the chosen panels over the last SECONDS,
and draws what it answers as SVG. docs/pictures.sh runs it.
"""

import html
import json
import math
import os
import re
import sys
import time
import urllib.parse
import urllib.request

PANELS = [
    "Replicas", "NATS", "Tenants without a worker", "Tenants held", "Waiting", "Oldest request", "Within five minutes",
    "Holds by cause", "Queue", "Calls against the limit", "Share of calls throttled", "From publishing to the end",
    "Calls by result", "Dead letters by reason", "Outcomes", "Open",
]
COLOURS = ["#2a7de1", "#d9822b", "#1b8a3e", "#c2352b", "#7a4fc4", "#0f9aa8", "#8a6d1b", "#c03a8c"]
STEP = 2


def ask(base, path, **args):
    with urllib.request.urlopen(f"{base}/api/v1/{path}?{urllib.parse.urlencode(args)}") as answer:
        return json.load(answer)["data"]["result"]


def text(value, unit):
    if math.isnan(value) or math.isinf(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if 0 < value < 1 else f"{value:.3g} s"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def name(legend, metric):
    if legend and "{{" in legend:
        return re.sub(r"\{\{(\w+)\}\}", lambda m: metric.get(m[1], ""), legend).strip()
    return legend or ", ".join(metric.values())


def ticks(top):
    """Round values from zero to above top."""
    raw = top / 3
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * f for f in (1, 2, 5, 10) if size * f >= raw)
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def chart(series, start, end, unit, width, height):
    """One panel's lines, with an axis at the left and a legend below."""
    series = [(label, [(t, v) for t, v in points if math.isfinite(v)]) for label, points in series]
    # A line that is zero all the time says nothing but its name.
    shown = [(label, p) for label, p in series if any(v for _, v in p)] or series[:1]
    marks = ticks(max([v for _, p in shown for _, v in p] or [1]) or 1)
    left, right = 52, 12
    legend, at, row = [], left, 0
    for label, _ in shown:
        needs = 26 + 6.3 * len(label)
        if at > left and at + needs > width:
            at, row = left, row + 1
        legend.append((at, row))
        at += needs
    plot_w, plot_h = width - left - right, height - 46 - 16 * row
    x = lambda t: left + (t - start) / (end - start) * plot_w
    y = lambda v: 8 + plot_h - v / marks[-1] * plot_h
    out = [f'<svg width="{width}" height="{height}">']
    for mark in marks:
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" stroke="#e3e6ea"/>'
                   f'<text x="{left - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{html.escape(text(mark, unit))}</text>')
    for minutes in range(int((end - start) // 60) + 1):
        anchor, when = ("end", "now") if minutes == 0 else ("middle", f"−{minutes} min")
        out.append(f'<text x="{x(end - 60 * minutes):.1f}" y="{plot_h + 24}" text-anchor="{anchor}">{when}</text>')
    for i, (label, points) in enumerate(shown):
        colour = COLOURS[i % len(COLOURS)]
        runs, last = [], None
        for t, v in points:
            if last is None or t - last > 3 * STEP:
                runs.append([])
            runs[-1].append(f"{x(t):.1f},{y(v):.1f}")
            last = t
        for run in runs:
            out.append(f'<polyline points="{" ".join(run)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        at_x, at_y = legend[i][0], plot_h + 42 + 16 * legend[i][1]
        out.append(f'<rect x="{at_x:.0f}" y="{at_y - 8}" width="9" height="9" fill="{colour}"/>'
                   f'<text x="{at_x + 13:.0f}" y="{at_y}">{html.escape(label)}</text>')
    return "".join(out) + "</svg>"


def main():
    base, seconds = sys.argv[1], int(sys.argv[2])
    end = int(time.time())
    start = end - seconds
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "..", "deploy", "grafana", "passcode-worker.json")) as f:
        panels = json.load(f)["panels"]
    stats, charts, drawn = [], [], set()
    for title in PANELS:
        panel = next(p for p in panels if p["title"] == title and p["id"] not in drawn)
        drawn.add(panel["id"])
        unit = panel["fieldConfig"]["defaults"]["unit"]
        found = []
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in (("$job", ".+"), ("$tenant", ".+"), ("$__rate_interval", "10s"), ("$__range", f"{seconds}s")):
                query = query.replace(variable, value)
            legend = target.get("legendFormat", "")
            if panel["type"] == "stat":
                found += [(legend, float(r["value"][1])) for r in ask(base, "query", query=query, time=end)]
            else:
                found += [(name(legend, r["metric"]), [(float(t), float(v)) for t, v in r["values"]])
                          for r in ask(base, "query_range", query=query, start=start, end=end, step=STEP)]
        if panel["type"] == "stat":
            shown = text(found[0][1], unit) if found else "–"
            stats.append(f'<div class="p stat"><h2>{html.escape(title)}</h2><b>{html.escape(shown)}</b></div>')
        else:
            charts.append(f'<div class="p"><h2>{html.escape(title)}</h2>{chart(found, start, end, unit, 370, 220)}</div>')
    print(f"""<!doctype html><meta charset="utf-8"><style>
body {{ margin: 12px; background: #f3f4f6; font: 12px "DejaVu Sans", sans-serif; color: #1c222b; width: 1176px }}
.row {{ display: grid; gap: 8px; margin-bottom: 8px }}
.p {{ background: #fff; border: 1px solid #dde1e6; border-radius: 4px; padding: 6px 6px 0 }}
.stat {{ padding-bottom: 8px }} .stat b {{ font-size: 24px; font-weight: 500 }}
h2 {{ font-size: 12px; margin: 0 0 4px; font-weight: 600; white-space: nowrap }} .stat h2 {{ font-size: 10px }}
text {{ font-size: 10.5px; fill: #4a5361 }}
</style>
<div class="row" style="grid-template-columns: repeat({len(stats)}, minmax(0, 1fr))">{"".join(stats)}</div>
<div class="row" style="grid-template-columns: repeat(3, minmax(0, 1fr))">{"".join(charts)}</div>""")


if __name__ == "__main__":
    main()
