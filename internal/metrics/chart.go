package metrics

import (
	"fmt"
	"strings"
	"time"
)

// Measures of the chart, in units of its own: one slot is slotWidth wide. What
// was accepted rises from the axis, what went wrong hangs below it, on a scale
// of its own, so that one dead letter among thousands of resets can be seen.
const (
	slotWidth   = 10
	barWidth    = 8
	axis        = 100
	belowHeight = 40
	leastBar    = 4
)

// chart is the last quarter of an hour.
type chart struct {
	Width, Height, Axis          int
	Accepted, Dead, Throttled    string // outlines of the bars, as SVG paths
	AcceptedN, DeadN, ThrottledN string // totals
	Peak                         string // most accepted within one slot
	Slot, Span                   string // in words
}

func newChart(all [slots]slot) chart {
	var total slot
	var most, mostBelow uint32
	for _, s := range all {
		total.add(s)
		most, mostBelow = max(most, s.accepted), max(mostBelow, s.dead+s.throttled)
	}
	c := chart{
		Width: slots * slotWidth, Height: axis + belowHeight, Axis: axis,
		AcceptedN: thousands(int(total.accepted)), DeadN: thousands(int(total.dead)), ThrottledN: thousands(int(total.throttled)),
		Peak: thousands(int(most)),
		Slot: spell(slotTime), Span: spell(slots * slotTime),
	}
	var accepted, dead, throttled strings.Builder
	for i, s := range all {
		x := i * slotWidth
		up := height(s.accepted, most, axis-leastBar)
		bar(&accepted, x, axis-up, up)
		down := height(s.dead, mostBelow, belowHeight)
		bar(&dead, x, axis, down)
		bar(&throttled, x, axis+down, min(height(s.throttled, mostBelow, belowHeight), belowHeight-down))
	}
	c.Accepted, c.Dead, c.Throttled = accepted.String(), dead.String(), throttled.String()
	return c
}

// height is the height of a bar. Even the smallest number gets one that can be seen.
func height(n, most uint32, full int) int {
	if n == 0 {
		return 0
	}
	return max(leastBar, int(uint64(n)*uint64(full)/uint64(most)))
}

func bar(b *strings.Builder, x, y, h int) {
	if h > 0 {
		fmt.Fprintf(b, "M%d %dh%dv%dh-%dz", x, y, barWidth, h, barWidth)
	}
}

// thousands writes a number with its thousands separated by commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	first := 0
	if n < 0 {
		first = 1
	}
	for i := len(s) - 3; i > first; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// spell writes a duration in its one or two largest units.
func spell(d time.Duration) string {
	if d < time.Second {
		return "0 s"
	}
	units := []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}}
	for i, u := range units {
		if d < u.size {
			continue
		}
		text := thousands(int(d/u.size)) + " " + u.name
		if i+1 < len(units) {
			if rest := d % u.size / units[i+1].size; rest > 0 {
				text += fmt.Sprintf(" %d %s", rest, units[i+1].name)
			}
		}
		return text
	}
	return ""
}
