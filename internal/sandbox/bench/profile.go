package bench

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

// profileVariable names the file to which a worker that was built with this file writes
// its profile.
const profileVariable = "BENCH_PROFILE"

// profileBetweenSignals writes to a file where the processor time goes between SIGUSR1
// and SIGUSR2; empty: nowhere. This file is also laid over the worker's, where a profile
// is asked for, so it knows nothing but the standard library.
func profileBetweenSignals(path string) {
	if path == "" {
		return
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range signals {
			if s == syscall.SIGUSR2 {
				pprof.StopCPUProfile() // closes nothing: the process ends soon
				continue
			}
			file, err := os.Create(path)
			if err == nil {
				err = pprof.StartCPUProfile(file)
			}
			if err != nil {
				_, _ = os.Stderr.WriteString("no profile: " + err.Error() + "\n")
			}
		}
	}()
}
