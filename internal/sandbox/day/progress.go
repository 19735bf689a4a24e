package day

import (
	"fmt"
	"os"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// progress shows how the day goes: one line that changes in a terminal, a line
// now and then elsewhere.
type progress struct {
	out      *os.File
	terminal bool
	last     time.Time
	phase    string
}

const plainEvery = 5 * time.Second

func newProgress(out *os.File) *progress {
	info, err := out.Stat()
	return &progress{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (p *progress) show(elapsed time.Duration, phase string, published, waiting, followed int, s graphsim.Status) {
	line := fmt.Sprintf("%4.0fs  %-28s published %4d  waiting %4d  followed %4d  calls %4d  executed %4d  429s %3d",
		elapsed.Seconds(), phase, published, waiting, followed, s.Calls, s.Executed, s.Throttled)
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", line)
		return
	}
	if phase == p.phase && time.Since(p.last) < plainEvery {
		return
	}
	p.last, p.phase = time.Now(), phase
	fmt.Fprintln(p.out, line)
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprintln(p.out)
	}
}
