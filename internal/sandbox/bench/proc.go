package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
)

// hasProc reports whether this system tells what processes cost.
func hasProc() bool {
	_, err := os.Stat("/proc/self/stat")
	return err == nil
}

// processorTime is the processor time that processes have taken so far, in seconds: the
// user's and the system's. It is not a number where there is no /proc.
func processorTime(pids ...int) (float64, error) {
	if !hasProc() {
		return math.NaN(), nil
	}
	sum := 0
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("a process has ended: %w", err)
		}
		// The name of the program, in brackets, may hold spaces. Of what follows, the
		// 12th and 13th are ticks of the user's and the system's: 100 a second.
		_, rest, _ := bytes.Cut(text, []byte(") "))
		fields := bytes.Fields(rest)
		if len(fields) < 13 {
			return 0, errors.New("/proc tells no processor time")
		}
		for _, f := range fields[11:13] {
			ticks, err := strconv.Atoi(string(f))
			if err != nil {
				return 0, err
			}
			sum += ticks
		}
	}
	return float64(sum) / 100, nil
}

// What processes hold in memory: now, and at most since their start or [forgetPeak].
const (
	resident     = "VmRSS:"
	peakResident = "VmHWM:"
)

// memoryOf is what a process holds in memory, in MiB. It is not a number where there is no
// /proc. The kernel's account after the end of a process is of no use: it begins with that
// of the parent.
func memoryOf(pid int, what string) (float64, error) {
	if !hasProc() {
		return math.NaN(), nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("a process has ended: %w", err)
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(what)); ok {
			kib, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
			return float64(kib) / 1024, err
		}
	}
	return 0, errors.New("/proc tells no " + what)
}

// memoryOfAll is what several processes hold together, in MiB; what they share counts
// for each.
func memoryOfAll(all []*process, what string) (sum float64, err error) {
	for _, p := range all {
		mib, err := memoryOf(p.Pid(), what)
		if err != nil {
			return 0, err
		}
		sum += mib
	}
	return sum, nil
}

// forgetPeak lets peakResident begin anew. Source: proc_pid_clear_refs(5). Where that is
// not permitted, the peak is that since the start.
func forgetPeak(pid int) { _ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) }

// connection is what NATS shows of a connection.
type connection struct {
	// In counts the messages that NATS has got so far. With acks, pulls and requests each
	// counts as one.
	In            int `json:"in_msgs"`
	Subscriptions int `json:"subscriptions"`
}

// connection adds up the connections of a name. Source: nats-server, server/monitor.go, ConnInfo.
func (w *world) connection(ctx context.Context, name string) (all connection, err error) {
	for _, s := range w.nats {
		var got struct {
			Connections []struct {
				connection
				Name string `json:"name"`
			} `json:"connections"`
		}
		text, err := get(ctx, s.Monitor()+"/connz")
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if err != nil {
			return all, err
		}
		for _, c := range got.Connections {
			if c.Name == name {
				all.In, all.Subscriptions = all.In+c.In, all.Subscriptions+c.Subscriptions
			}
		}
	}
	return all, nil
}

// get reads what an address answers, if it is 200.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: HTTP %d", url, resp.StatusCode)
	}
	return body.Bytes(), nil
}

// sum adds up the series of a scrape that begin so.
func sum(scrape []byte, series string) (total float64) {
	for line := range bytes.Lines(scrape) {
		if !bytes.HasPrefix(line, []byte(series)) {
			continue
		}
		fields := bytes.Fields(line)
		v, err := strconv.ParseFloat(string(fields[len(fields)-1]), 64)
		if err == nil { // always, in a scrape
			total += v
		}
	}
	return total
}

// logs are the ends of what the processes wrote, which help to understand an error.
func (w *world) logs() string {
	text := ""
	for _, p := range w.processes {
		log, _ := os.ReadFile(p.Log) // it may not be there
		text += fmt.Sprintf("%s:\n%s\n", filepath.Base(p.Args[0]), log[max(0, len(log)-1500):])
	}
	return text
}
