package bench

import (
	"maps"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/sandbox"
)

// world is the sandbox's, with what is measured in it.
type world struct{ *sandbox.World }

func newWorld(sim graphsim.Config) (*world, error) {
	w, err := sandbox.New(sandbox.Options{NATS: &server.Options{}, Sim: sim})
	if err != nil {
		return nil, err
	}
	return &world{w}, nil
}

// stopTime is how long a process may take to end.
const stopTime = time.Minute

// launch starts a process in this world. end asks it to stop, and waits.
func (w *world) launch(env map[string]string, args ...string) (pid int, end func() error, err error) {
	all := w.Environment()
	maps.Copy(all, env)
	p := &sandbox.Process{Args: args, Env: sandbox.Inherit(all), Log: w.LogFile()}
	if err := p.Start(); err != nil {
		return 0, nil, err
	}
	return p.Pid(), func() error { return p.End(stopTime) }, nil
}
