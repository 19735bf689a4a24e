package day

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/sandbox"
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

A device id like %s gets a 404; see the README for the others.

`, w.URL, w.Sim.URL(), w.Sim.URL(), served,
		w.URL, graphsim.DefaultTenantID, graphsim.DefaultClientID, graphsim.DefaultClientSecret,
		w.Sim.URL(), w.Sim.URL(), ca, w.Names.Filter(), w.Names.Filter(), graphsim.GoodDevice(1), graphsim.FaultDevice(404, 0, 0, 1))

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
	stop := w.Run(w.Config(rate, httpAddr, log))
	<-ctx.Done()
	return stop()
}
