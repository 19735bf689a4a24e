package deploy_test

import (
	"context"
	"encoding/json"
	"os/exec"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
)

// thirdWorker plays what people do: a flood of resets, a pause, and a client
// that takes requests by hand. In between answers of Graph are lost.
func (s *sandbox) thirdWorker(p *prom, addr string) {
	sim, err := graphsim.Start(graphsim.Config{})
	if err != nil {
		s.t.Error(err)
		return
	}
	defer func() { _ = sim.Close() }()
	env := workerEnv(s.t, s.nats, "third", sim, "WORKER_HTTP_ADDR="+addr, "WORKER_FUSE=4/1h", "WORKER_VERIFY_AFTER=20s", "WORKER_FOLLOW=off")
	operator := func(command string) {
		cmd := exec.CommandContext(s.t.Context(), program(s.t, "worker"), command, "--tenant", "third")
		cmd.Env = []string{"NATS_URL=" + s.nats}
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Errorf("worker %s: %v\n%s", command, err, out)
		}
	}
	w := start(s.t, env, program(s.t, "worker"), "run")
	// A device that is gone, again and again, while nothing is accepted.
	p.until("the first scrape", `up{job="third"} == 1`)
	for range 30 {
		s.publish("third", graphsim.FaultDevice(404, 0, 0, 806), "")
	}
	p.awaitAlerts(60*time.Second, "PasscodeResetRefusedInARow")

	for i := range 6 { // some are left when the fuse is released
		s.publish("third", graphsim.GoodDevice(800+i), "")
	}
	p.awaitAlerts(30*time.Second, "PasscodeResetHeldFuse")
	operator("resume")
	p.until("the fuse to be released", `passcode_reset_hold{job="third",cause="fuse"} == bool 0`)
	p.until("an empty queue", `passcode_reset_queue_messages{job="third"} == bool 0`)

	operator("pause")
	s.publish("third", graphsim.GoodDevice(804), "")
	p.awaitAlerts(40*time.Second, "PasscodeResetHeldPaused")
	operator("resume")
	p.until("an empty queue", `passcode_reset_queue_messages{job="third"} == bool 0`)

	// Answers are lost again and again, for the same device, so that the fuse
	// holds; a look-up settles each of them only after a while.
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for began, i := time.Now(), 0; !p.hasFired("PasscodeResetRetriesGrow") && time.Since(began) < 60*time.Second; i++ {
		device := graphsim.GoodDevice(804)
		if i%2 == 0 {
			device = graphsim.FaultDevice(602, 0, 0, 805)
		}
		s.publish("third", device, "")
		<-ticker.C
	}
	p.awaitAlerts(time.Second, "PasscodeResetRetriesGrow")

	w.kill()
	letGo := s.byHand("third")
	w = start(s.t, env, program(s.t, "worker"), "run")
	p.awaitAlerts(40*time.Second, "PasscodeResetNothingActive")
	letGo()
	p.until("the worker to work", `passcode_reset_active{job="third"} == 1`)
	w.kill()
}

// byHand pulls from a tenant's consumer until the function it returns is called,
// and does nothing with what it gets. So it is the one that the server has
// chosen, and the worker stands by.
func (s *sandbox) byHand(tenant string) (stop func()) {
	nc := s.js.Conn()
	pull := func(ctx context.Context, pin string) string {
		body, _ := json.Marshal(map[string]any{"batch": 1, "expires": time.Second, "group": "worker", "id": pin}) // it always can be
		m, err := nc.RequestWithContext(ctx, "$JS.API.CONSUMER.MSG.NEXT.PASSCODE_RESETS.worker-"+tenant, body)
		if err != nil {
			return ""
		}
		return m.Header.Get("Nats-Pin-Id")
	}
	pin := ""
	for deadline := time.Now().Add(20 * time.Second); pin == ""; {
		if time.Now().After(deadline) {
			s.t.Error("nothing comes to a client that pulls by hand")
			return func() {}
		}
		pin = pull(s.t.Context(), "")
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for ctx.Err() == nil {
			try, done := context.WithTimeout(ctx, nats.DefaultTimeout)
			pull(try, pin)
			done()
		}
	}()
	return func() { cancel(); <-stopped }
}
