package deploy_test

import (
	"os/exec"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/topology"
)

// ownAlarms are the settings of a worker with a follow stream of its own: the workers
// of this test serve different tenants.
func ownAlarms(tenant string) []string {
	return []string{"WORKER_FOLLOW=on", "WORKER_FOLLOW_STREAM=FOLLOW_" + tenant, "WORKER_FOLLOW_SUBJECT=follow." + tenant}
}

// fourthWorker follows requests, and may not look at devices: the application lacks the
// right.
func (s *sandbox) fourthWorker(p *prom, addr string) {
	sim, err := graphsim.Start(graphsim.Config{Roles: []string{graphsim.RoleReset}})
	if err != nil {
		s.t.Error(err)
		return
	}
	defer func() { _ = sim.Close() }()
	env := workerEnv(s.t, s.nats, "fourth", sim, append(ownAlarms("fourth"), "WORKER_HTTP_ADDR="+addr, "WORKER_FOLLOW_FOR=20s")...)
	w := start(s.t, env, program(s.t, "worker"), "run")
	defer w.kill()
	p.until("the first scrape", `up{job="fourth"} == 1`)
	for i := range 6 {
		s.publish("fourth", graphsim.GoodDevice(600+i), "")
	}
	p.awaitAlerts(60*time.Second, "PasscodeResetFollowNotPermitted", "PasscodeResetOutcomesUndetermined")
}

// fifthWorker follows devices that fail, and one whose action has a strange name. Then
// the queue of alarms is paused, and at last removed. The worker makes nothing itself.
func (s *sandbox) fifthWorker(p *prom, addr string) {
	sim, err := graphsim.Start(graphsim.Config{})
	if err != nil {
		s.t.Error(err)
		return
	}
	defer func() { _ = sim.Close() }()
	env := workerEnv(s.t, s.nats, "fifth", sim, append(ownAlarms("fifth"), "WORKER_HTTP_ADDR="+addr, "WORKER_SETUP=false")...)
	setup := exec.CommandContext(s.t.Context(), program(s.t, "worker"), "setup")
	setup.Env = env
	if out, err := setup.CombinedOutput(); err != nil {
		s.t.Errorf("worker setup: %v\n%s", err, out)
		return
	}
	w := start(s.t, env, program(s.t, "worker"), "run")
	defer w.kill()
	p.until("the first scrape", `up{job="fifth"} == 1`)
	for i := range 14 {
		story := 1 // it fails
		if i < 6 {
			story = 0 // it is done
		}
		s.publish("fifth", graphsim.StoryDevice(story, 1, 0, 500+i), "")
	}
	s.publish("fifth", graphsim.StoryDevice(50, 1, 0, 520), "") // 40 and the list of variant 10
	p.awaitAlerts(60*time.Second, "PasscodeResetOutcomesFail", "PasscodeResetUnknownActionNames")

	first := topology.FollowConsumer(0)
	if _, err := s.js.PauseConsumer(s.t.Context(), "FOLLOW_fifth", first, time.Now().Add(time.Hour)); err != nil {
		s.t.Error(err)
	}
	s.publish("fifth", graphsim.StoryDevice(0, 1, 0, 530), "")
	p.awaitAlerts(60*time.Second, "PasscodeResetFollowLags")

	if err := s.js.DeleteStream(s.t.Context(), "FOLLOW_fifth"); err != nil {
		s.t.Error(err)
	}
	s.publish("fifth", graphsim.StoryDevice(0, 1, 0, 531), "")
	p.awaitAlerts(60*time.Second, "PasscodeResetFollowLost")
}
