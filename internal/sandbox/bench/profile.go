package bench

import (
	"errors"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

// profileVariable names the file to which a worker that was built with this file writes
// its profile.
const profileVariable = "BENCH_PROFILE"

// profileBetweenSignals writes to a file where the processor time goes between SIGUSR1
// and SIGUSR2; empty: nowhere. The file is there when it is whole. This source is also laid
// over the worker's, where a profile is asked for, so it knows nothing but the standard library.
func profileBetweenSignals(path string) {
	if path == "" {
		return
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		part := path + ".part"
		<-signals
		file, err := os.Create(part)
		if err == nil {
			err = pprof.StartCPUProfile(file)
		}
		<-signals
		pprof.StopCPUProfile()
		if err = errors.Join(err, os.Rename(part, path)); err != nil {
			_, _ = os.Stderr.WriteString("no profile: " + err.Error() + "\n")
		}
	}()
}
