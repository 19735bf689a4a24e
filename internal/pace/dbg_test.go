package pace
import ("testing";"testing/synctest";"time";"math/rand/v2";"fmt")
func TestDbg(t *testing.T) {
	for seed := range uint64(6) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		d := drain{rate: Rate{2000,20*time.Second}, callers: 32, jitter: seed%2 == 1, seed: seed, calls: 1000,
			server: &server{kind: sliding, n: 200, w: 20*time.Second, header: seconds, phase: time.Duration(rnd.Int64N(int64(20*time.Second)))}}
		p := New(d.rate, time.Hour)
		stop := make(chan struct{})
		go func(){ last:=""; for { select {case <-stop: return; case <-time.After(50*time.Millisecond):}
			d.mu.Lock(); li, re := d.letIn, d.refused; d.mu.Unlock()
			p.mu.Lock(); s:=fmt.Sprintf("limit %d sure %d ramp %d win %d", p.lesson.limit,p.lesson.sure,p.ramp.most, 0); w,k:=p.window.n,p.taken; p.mu.Unlock()
			if s!=last || d.clock.now()%(10*time.Second)==0 { t.Log(d.clock.now(), li, re, s,w,k); last=s } } }()
		d.run(t, p)
		close(stop)
		t.Log(seed, d.took, d.refused)
	})}
}
