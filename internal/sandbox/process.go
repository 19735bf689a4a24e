package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a program that can be killed and started again. Set its fields
// before the first start.
type Process struct {
	Args []string
	// Env is the whole environment.
	Env map[string]string
	// Log is a file that what the program writes is appended to; empty: Stdout and
	// Stderr take it, which may be nil.
	Log            string
	Stdout, Stderr io.Writer

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
}

// Start starts the program.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		cmd.Env = append(cmd.Env, name+"="+p.Env[name])
	}
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	if p.Log != "" {
		out, err := os.OpenFile(p.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer func() { _ = out.Close() }() // the program has its own
		cmd.Stdout, cmd.Stderr = out, out
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Args[0], err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ended is in its state
	}()
	return nil
}

// Pid is the number of the process; it must have been started.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Ended is closed when the program that was started last has ended; nil before
// the first start.
func (p *Process) Ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// ExitCode is that of a program that has ended; -1: it was killed.
func (p *Process) ExitCode() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal. It fails where the program has ended.
func (p *Process) Signal(s os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return os.ErrProcessDone
	}
	return p.cmd.Process.Signal(s)
}

// Freeze lets the process do nothing until it is resumed.
func (p *Process) Freeze() { _ = p.Signal(syscall.SIGSTOP) } // it may be gone already

// Resume lets a frozen process go on.
func (p *Process) Resume() { _ = p.Signal(syscall.SIGCONT) } // it may be gone already

// Kill ends the process as a power cut does, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // it may be gone already
	p.Wait(10 * time.Second)
}

// Wait waits until the program has ended, and reports whether it has.
func (p *Process) Wait(most time.Duration) bool {
	ended := p.Ended()
	if ended == nil {
		return true
	}
	select {
	case <-ended: // also where there is no time to wait
		return true
	default:
	}
	select {
	case <-ended:
		return true
	case <-time.After(most):
		return false
	}
}

// End asks the program to stop, as an orchestrator does, and waits. It fails where
// the program does not end in time, or says that something went wrong.
func (p *Process) End(most time.Duration) error {
	_ = p.Signal(syscall.SIGTERM) // it may have ended by itself
	if !p.Wait(most) {
		return fmt.Errorf("%s did not end within %s", p.Args[0], most)
	}
	if code := p.ExitCode(); code != 0 {
		log, _ := os.ReadFile(p.Log) // helps to understand the error, if it is there
		return fmt.Errorf("%s ended with status %d\n%s", p.Args[0], code, log[max(0, len(log)-2000):])
	}
	return nil
}

// Revive starts the program if it is not running.
func (p *Process) Revive() error {
	if !p.Wait(0) {
		return nil
	}
	return p.Start()
}

// Inherit is the environment of this process with some variables set.
func Inherit(variables map[string]string) map[string]string {
	env := map[string]string{}
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	maps.Copy(env, variables)
	return env
}

const workerPackage = "passcode-worker/cmd/worker"

// BuildWorker builds the worker from this module's source, which the working
// directory must be in, with more flags of go build.
func BuildWorker(ctx context.Context, program string, flags ...string) error {
	args := append([]string{"build", "-o", program}, flags...)
	out, err := exec.CommandContext(ctx, "go", append(args, workerPackage)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build %s: %w\n%s", workerPackage, err, out)
	}
	return nil
}

// WorkerSource is the folder of the worker's main package.
func WorkerSource(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", workerPackage).Output()
	if err != nil {
		return "", fmt.Errorf("go list %s: %w", workerPackage, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// FreePort is a port of the loopback address that nobody listens on now.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }() // only its number was wanted
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("not a TCP address: " + l.Addr().String())
	}
	return addr.Port, nil
}
