package pace

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Rate is N calls in any window of W. The zero Rate has no limit.
type Rate struct {
	N int
	W time.Duration
}

// ParseRate reads a rate like "200/20s". "0" means no limit.
func ParseRate(s string) (Rate, error) {
	if strings.TrimSpace(s) == "0" {
		return Rate{}, nil
	}
	num, per, ok := strings.Cut(s, "/")
	if !ok {
		return Rate{}, fmt.Errorf("%q is not a rate: write calls/window, for example 200/20s, or 0 for no limit", s)
	}
	n, err := strconv.Atoi(strings.TrimSpace(num))
	if err != nil || n <= 0 {
		return Rate{}, fmt.Errorf("%q is not a rate: the number of calls must be a whole number above 0", s)
	}
	w, err := time.ParseDuration(strings.TrimSpace(per))
	if err != nil || w <= 0 {
		return Rate{}, fmt.Errorf("%q is not a rate: the window must be a duration such as 20s", s)
	}
	return Rate{N: n, W: w}, nil
}

// PerSecond is the rate as calls per second; 0 means no limit.
func (r Rate) PerSecond() float64 {
	if r.N == 0 {
		return 0
	}
	return float64(r.N) / r.W.Seconds()
}

// String is the form that [ParseRate] reads.
func (r Rate) String() string {
	if r.N == 0 {
		return "0"
	}
	w := r.W.String() // 1h0m0s
	for _, nothing := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(w, nothing) {
			w = w[:len(w)-len("0s")]
		}
	}
	return fmt.Sprintf("%d/%s", r.N, w)
}
