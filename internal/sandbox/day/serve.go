package day

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/worker"
)

// serve stays up until it is told to stop.
func serve(ctx context.Context, o Options, out io.Writer) error {
	port, graphAddr, httpAddr, quota := o.NATSPort, o.GraphAddr, o.HTTPAddr, o.Quota
	if port == 0 {
		port = 4222
	}
	if graphAddr == "" {
		graphAddr = "127.0.0.1:8443"
	}
	if httpAddr == "" {
		httpAddr = "127.0.0.1:9090"
	}
	if quota == "" {
		quota = "200/20s"
	}
	rate, err := pace.ParseRate(quota)
	if err != nil {
		return fmt.Errorf("--quota: %w", err)
	}
	if o.Faster < 1 {
		return errors.New("--faster: at least 1")
	}
	outage, err := graphsim.ParseOutage(o.Outage)
	if err != nil {
		return fmt.Errorf("--outage: %w", err)
	}
	w, err := sandbox.New(sandbox.Options{NATS: &server.Options{Port: port}, Sim: graphsim.Config{
		Quota: rate.N, Window: rate.W, RetryAfter: graphsim.Seconds, Latency: o.Latency, Addr: graphAddr, NoCallLog: true,
	}})
	if err != nil {
		return err
	}
	defer w.Close()
	ca := o.CAFile
	if ca == "" {
		ca = w.CA
	} else if err := os.WriteFile(ca, w.Sim.CAPEM(), 0o644); err != nil { // no secret: the workers of others read it
		return err
	}
	w.Sim.SetOutage(outage)

	served := "http://" + httpAddr + "/"
	if !o.Worker {
		served = "none: it runs without a worker"
	}
	fmt.Fprintf(out, `The sandbox is up. End it with Ctrl-C; it forgets everything then.

  NATS                 %s
  Entra and Graph      %s   (simulated; %s/_sim/status)
  metrics and health   %s

A worker of your own would be started with:

  export NATS_URL=%s
  export AZURE_TENANT_ID=%s AZURE_CLIENT_ID=%s
  export AZURE_CLIENT_SECRET=%s
  export AZURE_AUTHORITY_HOST=%s GRAPH_ENDPOINT=%s
  export SSL_CERT_FILE=%s

Publish to %s, for example with the nats tool:

  nats req %s '{"id":"INC1","managedDeviceId":"%s"}'

A device id like %s gets a 404. What a device does once Graph has accepted
its reset is in its id, too:

%s
See docs/sandbox.md for the others. %s

`, w.URL, w.Sim.URL(), w.Sim.URL(), served,
		w.URL, graphsim.DefaultTenantID, graphsim.DefaultClientID, graphsim.DefaultClientSecret,
		w.Sim.URL(), w.Sim.URL(), ca, w.Names.Filter(), w.Names.Filter(), graphsim.GoodDevice(1), graphsim.FaultDevice(404, 0, 0, 1),
		devices(), looks(o))

	if !o.Worker {
		<-ctx.Done()
		return nil
	}
	cfg := zap.NewDevelopmentConfig()
	cfg.EncoderConfig.EncodeLevel = zapcore.CapitalLevelEncoder
	cfg.Level = zap.NewAtomicLevelAt(zap.InfoLevel)
	cfg.DisableStacktrace = true
	cfg.DisableCaller = true
	log, err := cfg.Build()
	if err != nil {
		return err
	}
	workerConfig := w.Config(rate, httpAddr, log)
	workerConfig.Follow, workerConfig.FollowPlan = worker.FollowOn, plan(o)
	stop := w.Run(workerConfig)
	<-ctx.Done()
	return stop()
}

// plan is when the devices are looked at.
func plan(o Options) outcome.Plan {
	return outcome.Plan{For: outcome.DefaultFor / time.Duration(o.Faster), Faster: o.Faster}
}

// looks says when that is.
func looks(o Options) string {
	if !o.Worker {
		return ""
	}
	p := plan(o)
	return fmt.Sprintf("Devices are looked at %d times as fast as in\nlife (--faster): %s after the acceptance, then %s, %s, %s …", o.Faster,
		p.Age(0), p.Age(1), p.Age(2), p.Age(3))
}

// devices are some that somebody who tries would like to see, and what they do.
func devices() string {
	iPhone := graphsim.StoryVariant(graphsim.IOS, graphsim.Personal, "")
	var out strings.Builder
	for _, d := range []struct {
		id, does string
	}{
		{graphsim.GoodDevice(1), "has done it after a second, as every plain id"},
		{graphsim.StoryDevice(graphsim.StoryDone, 5, iPhone, 1), "an iPhone, has done it after 5 s"},
		{graphsim.StoryDevice(graphsim.StoryFailed, 2, 0, 1), "fails after 2 s"},
		{graphsim.StoryDevice(graphsim.StoryAway, 30, 0, 1), "is off for half a minute, then does it"},
		{graphsim.StoryDevice(graphsim.StoryLost, 0, 0, 1), "is off for ever"},
		{graphsim.StoryDevice(graphsim.StoryRemoved, 5, 0, 1), "is removed from Intune after 5 s"},
	} {
		fmt.Fprintf(&out, "  %s  %s\n", d.id, d.does)
	}
	return out.String()
}
