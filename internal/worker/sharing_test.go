package worker

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
)

// sharers makes a rig with many tenants, and a second replica whose connection can be cut.
func sharers(t *testing.T, n int) (first, second *rig, proxy *natstest.Proxy) {
	t.Helper()
	first = newRig(t, graphsim.Config{}, func(c *Config) {
		one := c.Tenants[0]
		c.Tenants = nil
		for i := range n {
			one.Name = fmt.Sprintf("t%02d", i)
			c.Tenants = append(c.Tenants, one)
		}
	})
	proxy, err := natstest.StartProxy(first.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	second = first.successor()
	second.cfg.NATS.URL = proxy.URL()
	return first, second, proxy
}

// round has a device of each tenant reset, and waits until all are.
func (r *rig) round(number int) {
	r.t.Helper()
	for i, tenant := range r.cfg.Tenants {
		m := nats.NewMsg(r.names.Subject + "." + tenant.Name)
		m.Data = []byte(reset(fmt.Sprintf("INC%d", number), graphsim.GoodDevice(1000*number+i)))
		if _, err := r.js.PublishMsg(r.t.Context(), m); err != nil {
			r.t.Fatal(err)
		}
	}
	r.awaitEmpty()
	for i := range r.cfg.Tenants {
		if n := r.sim.Resets(graphsim.GoodDevice(1000*number + i)); n != 1 {
			r.t.Errorf("round %d: the device of tenant %d was reset %d times", number, i, n)
		}
	}
}

// actives are the tenants that a replica says it works on.
func (r *rig) actives() map[string]bool {
	found := map[string]bool{}
	_, body := r.get("/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, `passcode_reset_active{tenant="`); ok {
			if name, value, _ := strings.Cut(rest, `"} `); strings.TrimSpace(value) == "1" {
				found[name] = true
			}
		}
	}
	return found
}

// shared reports whether each tenant is worked on by exactly one of two replicas, and
// both work on some.
func shared(a, b *rig) bool {
	of, others := a.actives(), b.actives()
	for name := range of {
		if others[name] {
			return false
		}
	}
	return len(of)+len(others) == len(a.cfg.Tenants) && len(of) > 0 && len(others) > 0
}

// TestReplicasShareTenants: each of two works on some tenants; what was one's is the
// other's once it is cut off, and is shared again when it is back. No device is reset
// twice.
func TestReplicasShareTenants(t *testing.T) {
	t.Parallel()
	first, second, proxy := sharers(t, 40)
	first.start()
	first.round(1)
	if n := len(first.actives()); n != 40 {
		t.Errorf("a replica that is alone works on %d tenants", n)
	}
	stop := second.start()
	first.await("the tenants to be shared", func() bool { return shared(first, second) })
	first.round(2)
	first.await("the tenants to be shared", func() bool { return shared(first, second) })
	proxy.Away()
	first.round(3)
	first.await("the first to work on all", func() bool { return len(first.actives()) == 40 })
	proxy.Heal()
	first.await("the tenants to be shared again", func() bool { return shared(first, second) })
	first.round(4)
	stop()
	first.round(5)
	first.await("the first to work on all", func() bool { return len(first.actives()) == 40 })
	if letters := first.letters(); len(letters) > 0 {
		t.Errorf("%d dead letters", len(letters))
	}
}

// TestLatePauseReachesTheNextOwner has Graph answer calls with a pause when their tenants
// are another replica's already, which is at work on them: it keeps to the pause, too.
func TestLatePauseReachesTheNextOwner(t *testing.T) {
	t.Parallel()
	first, _, _ := sharers(t, 10)
	first.cfg.MaxPause, first.cfg.Policy.RequestTimeout = time.Minute, 40*time.Second
	answer, end := make(chan struct{}), make(chan struct{})
	var early, others atomic.Int32
	first.front(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodPost || !strings.Contains(q.URL.Path, "resetPasscode") {
			return false
		}
		if early.Add(1) > 10 {
			others.Add(1)
			held(q, end)
			return false
		}
		held(q, answer)
		w.Header().Set("Retry-After", "50")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	second := first.successor()
	send := func(number int, tenant string) {
		m := nats.NewMsg(first.names.Subject + "." + tenant)
		m.Data = []byte(reset(fmt.Sprintf("INC%d", number), graphsim.GoodDevice(number)))
		if _, err := first.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	stopFirst := first.start()
	for _, tenant := range first.cfg.Tenants {
		send(1, tenant.Name)
	}
	first.await("a call for each", func() bool { return early.Load() == 10 })
	stopSecond := second.start()
	defer func() {
		close(end)
		stopSecond()
		stopFirst()
	}()
	var moved []string
	first.await("some tenants to move", func() bool {
		kept := first.actives()
		moved = nil
		for _, tenant := range first.cfg.Tenants {
			if !kept[tenant.Name] {
				moved = append(moved, tenant.Name)
			}
		}
		return len(moved) > 0
	})
	for _, tenant := range moved {
		send(2, tenant)
	}
	first.await("the next owner to work", func() bool { return int(others.Load()) >= len(moved) && len(second.actives()) >= len(moved) })
	close(answer)
	first.await("the next owner to pause", func() bool {
		_, body := second.get("/readyz")
		return strings.Count(body, `"pausedUntil"`) >= len(moved)
	})
}

// TestIdleTenantsRest: once each of many tenants has had work, nothing of them is left
// at the server, and the next request of each is done all the same.
func TestIdleTenantsRest(t *testing.T) {
	t.Parallel()
	r, _, _ := sharers(t, 40)
	r.start()
	r.round(1)
	pulls := func() (n int) {
		s, err := r.js.Stream(t.Context(), r.names.Stream)
		if err != nil {
			t.Fatal(err)
		}
		for info := range s.ListConsumers(t.Context()).Info() {
			n += info.NumWaiting
		}
		return n
	}
	r.await("no pull at the server", func() bool { return pulls() == 0 })
	r.round(2)
}
