// Command worker resets the passcodes of devices: it takes requests from NATS
// JetStream and calls Microsoft Graph for them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"passcode-worker/internal/metrics"
)

// version is set by the linker for a release.
var version = "dev"

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitKilled = 130 // a second signal ended it
)

func main() {
	// net/http logs there what it did not expect on a connection, and quotes it. That
	// may be an answer of Graph's, which can hold a passcode.
	log.SetOutput(io.Discard)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// cli is the command line.
type cli struct {
	Run     runCmd     `cmd:"" help:"Work on requests until told to stop."`
	Setup   setupCmd   `cmd:"" help:"Create the missing streams, buckets and consumers on NATS; change nothing that exists."`
	Check   checkCmd   `cmd:"" help:"Check everything that run needs and say what to fix; change nothing."`
	Send    sendCmd    `cmd:"" help:"Publish a request or a list of requests, and wait for the result if asked to."`
	Status  statusCmd  `cmd:"" help:"Show the queue, or one request and its result."`
	Outcome outcomeCmd `cmd:"" help:"List and show what devices did about accepted requests, and order another look at a device."`
	Dead    deadCmd    `cmd:"" help:"List, show, redrive and remove dead letters."`
	Pause   pauseCmd   `cmd:"" help:"Stop all replicas from taking further requests of a tenant."`
	Resume  resumeCmd  `cmd:"" help:"End a pause and release a blown fuse."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// streams are where a command writes.
type streams struct{ out, err io.Writer }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signals(stderr)
	defer stop()
	exited := -1
	var c cli
	parser, err := newParser(&c, streams{stdout, stderr}, func(code int) { exited = code })
	if err != nil {
		fmt.Fprintln(stderr, "worker:", err)
		return exitFailed
	}
	command, err := parser.Parse(args)
	if exited >= 0 {
		return exited // --help was asked for, and has been printed
	}
	if err != nil {
		try := "worker"
		if parse := (*kong.ParseError)(nil); errors.As(err, &parse) {
			try = strings.TrimSpace("worker " + name(parse.Context))
		}
		fmt.Fprintf(stderr, "worker: %v\nTry: %s --help\n", err, try)
		return exitUsage
	}
	command.BindTo(ctx, (*context.Context)(nil))
	err = command.Run()
	var wrong *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "worker: %s\nTry: worker %s --help\n", wrong, name(command))
		return exitUsage
	case errors.Is(err, errFailed):
		return exitFailed
	}
	fmt.Fprintln(stderr, "worker:", err)
	return exitFailed
}

// name is a command's name without its arguments.
func name(command *kong.Context) string {
	words := strings.Fields(command.Command())
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "<") || strings.HasPrefix(w, "[") }), " ")
}

// newParser makes the parser that fills c from the command line and the environment.
func newParser(c *cli, s streams, exit func(int)) (*kong.Kong, error) {
	forgetEmpty(variables(reflect.TypeFor[cli]()))
	return kong.New(c,
		kong.Name("worker"),
		kong.Description("Resets the passcodes of Intune devices. It takes requests from NATS JetStream and calls Microsoft Graph; "+
			"it loses no request and resets no device twice for one request."),
		kong.Writers(s.out, s.err),
		kong.Exit(exit),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ValueFormatter(describe),
		kong.ExplicitGroups(groups),
		kong.KindMapper(reflect.String, kong.MapperFunc(text)),
		kong.Bind(s),
		defaults(),
	)
}

// leftEmpty marks an option that was given with an empty value, so that it is not
// filled from elsewhere like one that was not given.
const leftEmpty = " "

// text reads the value of an option. The library's own error would show a
// secret that begins with a hyphen.
func text(ctx *kong.DecodeContext, target reflect.Value) error {
	t := ctx.Scan.Pop()
	if !t.IsValue() {
		return errors.New("its value is missing; if the value begins with a hyphen, write --flag=value")
	}
	value := t.String()
	if value == "" && ctx.Value.Tag.Has("filled") {
		value = leftEmpty
	}
	target.SetString(value)
	return nil
}

// signals returns a context that ends with the first SIGTERM or SIGINT. The
// second one ends the process at once.
func signals(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGTERM, os.Interrupt)
	done := make(chan struct{})
	go func() {
		select {
		case <-c:
			cancel()
		case <-done:
			return
		}
		select {
		case <-c:
			fmt.Fprintln(stderr, "worker: second signal: stopping at once")
			os.Exit(exitKilled)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(c)
		close(done)
		cancel()
	}
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(s streams) error {
	b := build()
	_, err := fmt.Fprintf(s.out, "worker %s, revision %s, %s\n", b.Version, b.Revision, b.GoVersion)
	return err
}

func build() metrics.Build {
	b := metrics.Build{Version: version, Revision: "unknown", GoVersion: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Revision = s.Value
			}
		}
	}
	return b
}
