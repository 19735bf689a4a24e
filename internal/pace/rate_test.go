package pace

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Rate{
		"0":               {},
		" 0\n":            {},
		"200/20s":         {200, 20 * time.Second},
		" 200 / 20s ":     {200, 20 * time.Second},
		"1/1ns":           {1, 1},
		"+1/+1h":          {1, time.Hour},
		"007/1m0.5s":      {7, 60500 * time.Millisecond},
		"10/1h2m3s":       {10, time.Hour + 2*time.Minute + 3*time.Second},
		"1/2562047h47m":   {1, 2562047*time.Hour + 47*time.Minute},
		"500/1.5µs":       {500, 1500},
		maxInt() + "/20s": {math.MaxInt, 20 * time.Second},
	} {
		if got, err := ParseRate(s); err != nil || got != want {
			t.Errorf("ParseRate(%q) = %+v, %v; want %+v", s, got, err, want)
		}
	}
}

func maxInt() string { return strconv.Itoa(math.MaxInt) }

func TestParseRateRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", " ", "00", "-0", "200", "20s", "/", "200/", "/20s", "0/20s", "-1/20s", "1.5/20s", "1e3/20s", "0x10/20s", "1_000/20s",
		"200/20", "200/0", "200/0s", "200/-20s", "200/0.1ns", "200/20s/1", "200//20s", "200/s", "200/20d", "200/NaN", "200 20s",
		"1" + maxInt() + "/20s", "200/9999999h", "２００/20s", "200/20s;0", "∞",
	} {
		r, err := ParseRate(s)
		if err == nil || r != (Rate{}) {
			t.Errorf("ParseRate(%q) = %+v, %v; want an error", s, r, err)
			continue
		}
		if !strings.Contains(err.Error(), strconv.Quote(s)) {
			t.Errorf("ParseRate(%q): the error does not name it: %v", s, err)
		}
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rate   Rate
		text   string
		second float64
	}{
		{Rate{}, "0", 0},
		{Rate{200, 20 * time.Second}, "200/20s", 10},
		{Rate{1, time.Hour}, "1/1h", 1. / 3600},
		{Rate{9, 90 * time.Minute}, "9/1h30m", 9. / 5400},
		{Rate{6, 10 * time.Minute}, "6/10m", .01},
		{Rate{3, 500 * time.Millisecond}, "3/500ms", 6},
	} {
		if got := c.rate.String(); got != c.text {
			t.Errorf("%+v is written %q, want %q", c.rate, got, c.text)
		}
		if got := c.rate.PerSecond(); got != c.second {
			t.Errorf("%s is %g per second, want %g", c.rate, got, c.second)
		}
		if got := New(c.rate, 0).Rate(); got != c.rate {
			t.Errorf("the pacer's rate is %s, want %s", got, c.rate)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"0", "200/20s", " 1 / 1h2m3.5s ", "+7/+1us", "-1/20s", "9223372036854775807/2562047h47m16.854775807s", "1/1", "//", "\x00/\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			if r != (Rate{}) {
				t.Errorf("%+v with an error", r)
			}
			return
		}
		if r != (Rate{}) && (r.N <= 0 || r.W <= 0) {
			t.Errorf("%+v is no rate", r)
		}
		if p := r.PerSecond(); !(p >= 0) || math.IsInf(p, 0) || (p == 0) != (r.N == 0) {
			t.Errorf("%+v is %g per second", r, p)
		}
		if again, err := ParseRate(r.String()); err != nil || again != r {
			t.Errorf("%+v is written %q, which is read as %+v, %v", r, r.String(), again, err)
		}
	})
}
