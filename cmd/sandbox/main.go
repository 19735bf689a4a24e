// Command sandbox shows the worker at its job without an account anywhere: one
// process with a real NATS JetStream server, a simulated Microsoft Entra and
// Graph, and the worker, unchanged, between them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/bench"
	"passcode-worker/internal/sandbox/chaos"
	"passcode-worker/internal/sandbox/day"
)

type cli struct {
	Day   dayCmd   `cmd:"" default:"withargs" help:"Play a mixed day of requests and check that all promises held (default)."`
	Bench benchCmd `cmd:"" help:"Measure the worker against bare loops that do the same steps."`
	Chaos chaosCmd `cmd:"" help:"Kill, freeze and cut off workers and NATS servers under load, and count what was lost or done twice."`
	Soak  soakCmd  `cmd:"" help:"Run one worker process for some minutes and check whether it grows."`

	Floor    floorCmd  `cmd:"" hidden:""`
	Graph    graphCmd  `cmd:"" hidden:""`
	RunAgain workerCmd `cmd:"" name:"worker" hidden:""`
}

// The fields of each command are those of the package's options.

type dayCmd struct {
	Seed uint64 `default:"1" help:"Seed of the order of the requests."`

	Serve     bool          `help:"Do not play a day: keep running, so that you can connect your own system."`
	Worker    bool          `default:"true" negatable:"" help:"With --serve: run the worker, too."`
	NATSPort  int           `name:"nats-port" default:"0" help:"Port of NATS. 0: 4222 with --serve, otherwise any free port."`
	GraphAddr string        `default:"" help:"Address of the simulated Graph. Default: 127.0.0.1:8443 with --serve, otherwise any free port."`
	HTTPAddr  string        `name:"http-addr" default:"" help:"Address of the worker's metrics and health endpoints. Default with --serve: 127.0.0.1:9090."`
	CAFile    string        `name:"ca-file" default:"" placeholder:"FILE" help:"With --serve: where to write the CA certificate of the simulated Graph. Default: a temporary file."`
	Quota     string        `default:"" help:"Quota of the simulated Graph, such as 200/20s (the default with --serve). 0: no limit."`
	Latency   time.Duration `default:"20ms" help:"How long the simulated Graph takes to answer."`
	Outage    string        `default:"none" help:"With --serve: a fault that affects every request from the start. One of: none, 503, 503-retry-after, 500, refuse, silence, secret-expired, token-down, permission, throttle, no-licence, wrong-path."`
	Faster    int           `default:"10" placeholder:"N" help:"With --serve: look at devices N times as fast as in production. 1: after 15 s, 30 s, a minute …"`
}

// Run plays the day, or serves.
func (c dayCmd) Run(ctx context.Context) error { return day.Run(ctx, day.Options(c), os.Stdout) }

type benchCmd struct {
	Rows    []string `default:"all" help:"What to measure: all, quick, or any of: ${rows}. All leaves out streams, cluster-streams and cluster-consumers, which take minutes for figures without a goal."`
	Repeats int      `default:"0" help:"Runs of each row. 0: as many as the row needs."`
	N       int      `default:"10000" help:"Requests of each turn of the row drain; the row cluster takes half of them."`
	Waiting int      `default:"1000000" help:"Requests that wait during the row memory."`
	Tenants int      `default:"2000" help:"Tenants of the rows tenants and replicas; the rows cluster-tenants and cluster-streams take a quarter of them, the row streams two and a half times as many."`
	Streams int      `default:"3" help:"Streams over which the rows streams and cluster-streams spread their tenants, with a worker for each."`
	Profile string   `placeholder:"DIR" help:"Write CPU profiles of the worker and of its floor in the row drain to this folder."`
	Output  string   `short:"o" default:"table" enum:"table,json" help:"table or json."`
}

// Run measures, and fails where a figure was not reached.
func (c benchCmd) Run(ctx context.Context) error { return bench.Run(ctx, bench.Options(c), os.Stdout) }

type chaosCmd struct {
	N       int           `default:"2000" help:"Requests."`
	Workers int           `default:"2" help:"Worker processes at a time."`
	Seed    uint64        `default:"0" help:"Seed of the requests and the faults. 0: a new one, which is printed."`
	Rate    int           `default:"100" help:"Requests published per second."`
	Cluster bool          `help:"Use three NATS servers and three replicas of everything, and kill the leaders, too."`
	Limit   time.Duration `default:"5m" help:"Time limit for the whole run."`
	Worker  string        `default:"" placeholder:"PROGRAM" help:"Another program to run as the worker, such as one built from ./cmd/worker. It follows requests as slowly as in production, so the run does not judge the outcomes. Default: the worker in this program."`
	Keep    bool          `help:"Keep the folder with logs and streams."`
}

// Run throws faults, and fails where something was lost or doubled.
func (c chaosCmd) Run(ctx context.Context) error { return chaos.Run(ctx, chaos.Options(c), os.Stdout) }

type soakCmd struct {
	For    time.Duration `default:"5m" help:"How long."`
	Rate   int           `default:"100" help:"Requests published per second."`
	Worker string        `default:"" help:"The worker's program. Default: one built from ./cmd/worker."`
	Keep   bool          `help:"Keep the folder with logs and streams."`
}

// Run fails where the worker grows.
func (c soakCmd) Run(ctx context.Context) error {
	return chaos.Soak(ctx, chaos.SoakOptions(c), os.Stdout)
}

// floorCmd is a floor of the bench, as a process of its own.
type floorCmd struct {
	NATSURL string `name:"nats-url" env:"NATS_URL" required:""`
	Graph   string `env:"GRAPH_ENDPOINT" required:""`
	Bare    bool
	Profile string
}

// Run works until it is told to stop.
func (c floorCmd) Run(ctx context.Context) error { return bench.Floor(ctx, bench.FloorOptions(c)) }

// graphCmd is a simulated Graph of the bench, as a process of its own.
type graphCmd struct{}

// Run serves until its input ends.
func (graphCmd) Run() error { return sandbox.ServeGraph(os.Stdin, os.Stdout) }

// workerCmd is a worker of the chaos, as a process of its own.
type workerCmd struct {
	NATSURL string `name:"nats-url" env:"NATS_URL" required:""`
	Graph   string `env:"GRAPH_ENDPOINT" required:""`
}

// Run works until it is told to stop.
func (c workerCmd) Run(ctx context.Context) error { return chaos.Worker(ctx, c.NATSURL, c.Graph) }

func main() {
	natstest.Main() // bench and chaos start this program again as a NATS server
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exited := -1
	var c cli
	parser, err := kong.New(&c, kong.Name("sandbox"),
		kong.Description("A real NATS server, a simulated Graph and the worker in one process."),
		kong.Vars{"rows": bench.RowNames()},
		kong.Exit(func(code int) { exited = code }),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	command, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sandbox: %v\nTry: sandbox --help\n", err)
		return 2
	}
	if err := command.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	return 0
}
