package follow

import "sync"

// lane bounds how many looks of a tenant wait or are under way, so that a tenant
// whose quota is used up, or whose calls hang, takes no place from another.
type lane struct {
	mu    sync.Mutex
	busy  int
	hangs bool // the last look had no answer
}

// lanes is how many looks of a tenant may be under way, and lanesThatHang how many if
// the last one had no answer.
const (
	lanes         = 32
	lanesThatHang = 4
)

// answered notes whether a look was answered, even if by a refusal.
func (l *lane) answered(is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hangs = !is
}

// enter takes one of the given number of places, and reports whether one was free.
func (l *lane) enter(places int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hangs {
		places = min(places, lanesThatHang)
	}
	if l.busy >= places {
		return false
	}
	l.busy++
	return true
}

func (l *lane) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
}
