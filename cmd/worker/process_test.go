package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"passcode-worker/internal/sandbox"
)

// process is a worker command in a process of its own.
type process struct {
	*sandbox.Process
	t    *testing.T
	out  output
	err  output
	done <-chan struct{} // closed when it has ended
}

// output keeps what a process has written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// launch starts a command with nothing but the given environment.
func launch(t *testing.T, env map[string]string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t}
	p.Process = &sandbox.Process{Args: append([]string{self}, args...), Env: with(env, asWorker, "1"), Stdout: &p.out, Stderr: &p.err}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.done = p.Ended()
	t.Cleanup(func() {
		p.Kill()
		<-p.done
		if t.Failed() {
			s := p.err.String()
			t.Logf("worker %s said:\n%s%s", strings.Join(args, " "), p.out.String(), s[max(0, len(s)-4000):])
		}
	})
	return p
}

// wait returns the exit status.
func (p *process) wait() int {
	p.t.Helper()
	if !p.Wait(testTime) {
		p.t.Fatal("the process does not end")
	}
	if strings.Contains(p.err.String(), "DATA RACE") {
		p.t.Error("the race detector has found something")
	}
	return p.ExitCode()
}

func (p *process) running() bool { return !p.Wait(0) }

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// stop ends the worker as an orchestrator does.
func (p *process) stop() {
	p.t.Helper()
	p.signal(os.Interrupt)
	if code := p.wait(); code != exitDone {
		p.t.Errorf("the worker ended with status %d", code)
	}
}

// line finds a line of the log by its message.
func (p *process) line(message string) map[string]any {
	for line := range strings.Lines(p.err.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			return entry
		}
	}
	return nil
}

func (p *process) awaitLine(message string) map[string]any {
	p.t.Helper()
	await(p.t, "the log line "+strconv.Quote(message), func() bool { return p.line(message) != nil || !p.running() })
	entry := p.line(message)
	if entry == nil {
		p.t.Fatalf("the process ended without the log line %q", message)
	}
	return entry
}

// get reads one of the worker's pages.
func (p *process) get(path string) (int, string) {
	p.t.Helper()
	address := p.awaitLine("serving metrics and health")["address"]
	client := http.Client{Timeout: testTime, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://%v%s", address, path))
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

func (p *process) awaitReady() {
	p.t.Helper()
	await(p.t, "readiness", func() bool { code, _ := p.get("/readyz"); return code == http.StatusOK })
}

// series are all values on /metrics by name and labels, without the prefix.
type series map[string]float64

func (p *process) metrics() series {
	p.t.Helper()
	code, body := p.get("/metrics")
	if code != http.StatusOK {
		p.t.Fatalf("/metrics: %d %s", code, body)
	}
	out := series{}
	for line := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "passcode_reset_")
		name, value, found := strings.Cut(rest, " ")
		f, err := strconv.ParseFloat(value, 64)
		if ok && found && err == nil {
			out[name] = f
		}
	}
	return out
}

// sum adds up the series of a family that have all of the given labels.
func (s series) sum(family string, labels ...string) int {
	total := 0.0
	for name, value := range s {
		if name != family && !strings.HasPrefix(name, family+"{") {
			continue
		}
		all := true
		for _, label := range labels {
			all = all && strings.Contains(name, label)
		}
		if all {
			total += value
		}
	}
	return int(total)
}

// by is a family's series by the value of one label, those of 0 left out.
func (s series) by(family, label string, labels ...string) map[string]int {
	out := map[string]int{}
	for name := range maps.Keys(s) {
		_, rest, ok := strings.Cut(name, label+`="`)
		if !ok || !strings.HasPrefix(name, family+"{") {
			continue
		}
		value, _, _ := strings.Cut(rest, `"`)
		if n := s.sum(family, append(labels, label+`="`+value+`"`)...); n > 0 {
			out[value] = n
		}
	}
	return out
}

// runFor runs a command to its end.
func runFor(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	p := launch(t, env, args...)
	code := p.wait()
	return result{code, p.out.String(), p.err.String()}
}
