// Command sandbox shows the worker at its job without an account anywhere: one
// process with a real NATS JetStream server, a simulated Microsoft Entra and
// Graph, and the worker, unchanged, between them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"passcode-worker/internal/natstest"
)

type cli struct {
	Day   dayCmd   `cmd:"" default:"withargs" help:"Play a mixed day of requests and check that every promise held (default)."`
	Bench benchCmd `cmd:"" help:"Measure the worker beside bare loops that do the same steps."`
	Chaos chaosCmd `cmd:"" help:"Kill, freeze and cut off workers and NATS under load, and count what was lost or doubled."`
	Soak  soakCmd  `cmd:"" help:"Let one worker process work for minutes, and see whether it grows."`

	Floor floorCmd `cmd:"" hidden:""`
}

func main() {
	natstest.Main() // the chaos starts this program again as a NATS server
	os.Exit(run(os.Args[1:]))
}

// errBroken means that the sandbox worked, and what it was to show is not so.
var errBroken = errors.New("a promise was broken")

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exited := -1
	var c cli
	parser, err := kong.New(&c, kong.Name("sandbox"),
		kong.Description("A real NATS server, a simulated Graph and the worker in one process."),
		kong.Vars{"rows": rowNames()},
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
