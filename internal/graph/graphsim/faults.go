package graphsim

import (
	"fmt"
	"net/http"
	"time"
)

// FaultDevice is a device id whose first POSTs, as many as times says, or all
// of them if it is 0, meet the fault of the code and variant. n makes it
// unique. See the package documentation for the codes. Numbers above 9999 do
// not fit and give an id that is no GUID.
func FaultDevice(code, times, variant, n int) string {
	return fmt.Sprintf("dead%04d-%04d-%04d-0000-%012x", code, times, variant, n)
}

// GoodDevice is the id of a device without a fault. n makes it unique.
func GoodDevice(n int) string {
	return fmt.Sprintf("600d0000-0000-4000-8000-%012x", n)
}

// fault is what a device id asks for.
type fault struct{ code, times, variant int }

// Variants of a fault.
const (
	variantDo    = 1 // executed all the same; the challenge of a 401
	variantEmpty = 8
	variantHTML  = 9
)

// Codes of the transport faults.
const (
	faultCut        = 601
	faultCutDone    = 602
	faultSilentDone = 603
	faultSilent     = 604
	faultSlow       = 605
	faultList       = 701
	faultListDone   = 702
)

// slow is how long faultSlow takes.
const slow = 2 * time.Second

// parseNumbers reads the three numbers of a device id that asks for something.
func parseNumbers(g guid) (v [3]int, ok bool) {
	if g[0] != 0xde || g[1] != 0xad {
		return v, false
	}
	for i := range v {
		for _, b := range g[2+2*i : 4+2*i] {
			if b>>4 > 9 || b&15 > 9 {
				return v, false
			}
			v[i] = v[i]*100 + int(b>>4)*10 + int(b&15)
		}
	}
	return v, true
}

// parseFault reads the fault in a device id; ok is false where there is none.
func parseFault(g guid) (f fault, ok bool) {
	v, ok := parseNumbers(g)
	if !ok {
		return fault{}, false
	}
	f = fault{v[0], v[1], v[2]}
	return f, f.code >= 200 && f.code <= 599 || f.code >= faultCut && f.code <= faultSlow ||
		(f.code == faultList || f.code == faultListDone) && f.variant <= int(ListUnknownName)
}

// due reports whether the next POST of the device meets the fault.
func (f fault) due(d *device) bool { return f.times == 0 || d.faulted < f.times }

// reply is what a POST that meets the fault gets.
func (f fault) reply() reply {
	switch f.code {
	case faultCut:
		return reply{ending: endCut, streamOnly: f.variant == variantDo}
	case faultCutDone:
		return reply{ending: endCut, streamOnly: f.variant == variantDo, execute: true}
	case faultList:
		return reply{ending: endCut, streamOnly: true}
	case faultListDone:
		return reply{ending: endCut, streamOnly: true, execute: true}
	case faultSilentDone:
		return reply{ending: endSilence, execute: true}
	case faultSilent:
		return reply{ending: endSilence}
	case faultSlow:
		return reply{status: http.StatusNoContent, execute: true, delay: slow}
	}
	a := reply{status: f.code, nested: true}
	switch f.variant {
	case variantEmpty:
		a.form = formNone
	case variantHTML:
		a.form = formHTML
	}
	switch {
	case f.code == http.StatusTooManyRequests || f.code == http.StatusServiceUnavailable:
		a.nested = false
		switch f.variant {
		case 1:
			a.retry = retryAfter{Seconds, time.Second}
		case 2:
			a.retry = retryAfter{Decimal, 900 * time.Millisecond}
		case 3:
			a.retry = retryAfter{Date, 2 * time.Second}
		case 4:
			a.retry = retryAfter{Seconds, 24 * time.Hour}
		}
	case f.code == http.StatusUnauthorized && f.variant == variantDo:
		a.auth, a.nested = authChallenge, false
	case f.code == http.StatusUnauthorized:
		a.auth = authIntune
	case f.code >= 500 || f.code < 400 || f.code == http.StatusRequestTimeout:
		a.execute = f.variant == variantDo
		a.nested = f.code == http.StatusInternalServerError
		a.redirect = f.code >= 300 && f.code < 400
	}
	return a
}
