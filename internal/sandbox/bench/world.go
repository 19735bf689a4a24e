package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/topology"
)

// place is what the world of a row is made of.
type place struct {
	sim graphsim.Config
	// tenants are those beside the default one, each with a directory of its own; 0: the
	// default one is alone. Else the workers serve these, and not the default one.
	tenants int
	// spread is how many request streams the tenants are spread over, each with a worker
	// of its own; 0: they are not spread.
	spread int
	// cluster: three NATS servers that wait for their disks, in place of one that does not.
	cluster bool
}

// world is what a row measures in: NATS, a simulated Graph, and whatever the row starts,
// each a process of its own. This process publishes and watches.
type world struct {
	Options
	place
	brief  bool
	worker string // the program

	dir       string
	nats      []*natstest.Process
	graph     *sandbox.Graph
	nc        *nats.Conn
	js        jetstream.JetStream
	names     topology.Names
	env       map[string]string // of the processes
	processes []*process
	twins     []*world
}

// process is a worker, or a floor.
type process struct {
	*sandbox.Process
	http string // root of the worker's endpoints
	over bool   // it was told to end
}

// newWorld makes a world, whose streams are there. Close it.
func newWorld(ctx context.Context, s setting, p place) (*world, error) {
	w := &world{Options: s.Options, brief: s.brief, worker: s.worker, place: p, names: sandbox.Names()}
	if err := w.build(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// twin is another world like this, which is closed with it.
func (w *world) twin(ctx context.Context) (*world, error) {
	t, err := newWorld(ctx, setting{w.Options, w.worker, w.brief}, w.place)
	if err == nil {
		w.twins = append(w.twins, t)
	}
	return t, err
}

func (w *world) build(ctx context.Context) (err error) {
	if w.dir, err = os.MkdirTemp("", "passcode-bench-"); err != nil {
		return err
	}
	if err := w.startNATS(); err != nil {
		return err
	}
	this, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range w.tenants {
		w.sim.Tenants = append(w.sim.Tenants, directory(i))
	}
	if w.graph, err = sandbox.StartGraph(w.sim, exec.Command(this, "graph")); err != nil {
		return err
	}
	ca := filepath.Join(w.dir, "ca.pem")
	if err := os.WriteFile(ca, w.graph.CAPEM(), 0o600); err != nil {
		return err
	}
	var urls []string
	for _, s := range w.nats {
		urls = append(urls, s.URL())
	}
	w.env = sandbox.Environment(strings.Join(urls, ","), w.graph.URL(), ca)
	if w.tenants > 0 {
		if err := w.listTenants(); err != nil {
			return err
		}
	}
	if w.nc, err = nats.Connect(strings.Join(urls, ","), nats.Name("bench"), nats.MaxReconnects(-1)); err != nil {
		return err
	}
	if w.js, err = jetstream.New(w.nc); err != nil {
		return err
	}
	return w.setUp(ctx)
}

func (w *world) startNATS() error {
	dir := filepath.Join(w.dir, "nats")
	if w.cluster {
		all, err := natstest.StartProcessesWith(dir, natstest.ProcessOptions{SyncAlways: true, Monitor: true})
		if err == nil {
			w.nats = all[:]
		}
		return err
	}
	one, err := natstest.StartProcessWith(dir, natstest.ProcessOptions{Monitor: true})
	if err == nil {
		w.nats = []*natstest.Process{one}
	}
	return err
}

// tenantName and directory are of the i-th tenant.
func tenantName(i int) string { return fmt.Sprintf("t%04d", i) }
func directory(i int) string  { return fmt.Sprintf("7e4a17b0-0000-4000-8000-%012x", 0xb000+i) }

// listTenants writes the lists of tenants that workers serve, one for each stream.
func (w *world) listTenants() error {
	lists := make([][]byte, w.parts())
	for i := range w.tenants {
		k := w.partOf(i)
		lists[k] = fmt.Appendf(lists[k], "- name: %s\n  tenantId: %s\n", tenantName(i), directory(i))
	}
	for k, list := range lists {
		if err := os.WriteFile(w.tenantsFile(k), list, 0o600); err != nil {
			return err
		}
	}
	w.env["WORKER_TENANTS_FILE"], w.env["AZURE_TENANT_ID"] = w.tenantsFile(0), ""
	return nil
}

func (w *world) tenantsFile(part int) string {
	return filepath.Join(w.dir, fmt.Sprintf("tenants%d.yaml", part))
}

// parts is how many request streams there are.
func (w *world) parts() int { return max(1, w.spread) }

// partOf is the stream of the i-th tenant: each has neighbours in number.
func (w *world) partOf(i int) int { return i * w.parts() / max(1, w.tenants) }

// part is the names of one of several parts of the tenants. Each has a request stream and
// a stream of alarms of its own; dead letters and buckets are those of all.
func (w *world) part(k int) topology.Names {
	n := w.names
	if k > 0 {
		n.Stream, n.Subject = fmt.Sprintf("%s_%d", n.Stream, k+1), fmt.Sprintf("%s.%d", n.Subject, k+1)
		n.FollowStream, n.FollowSubject = fmt.Sprintf("%s_%d", n.FollowStream, k+1), fmt.Sprintf("%s.%d", n.FollowSubject, k+1)
	}
	return n
}

// requests and alarms are the streams of all parts.
func (w *world) requests() (streams []string) {
	for k := range w.parts() {
		streams = append(streams, w.part(k).Stream)
	}
	return streams
}

func (w *world) alarms() (streams []string) {
	for k := range w.parts() {
		streams = append(streams, w.part(k).FollowStream)
	}
	return streams
}

// setUp makes the streams and the consumers. A cluster that has just formed refuses at first.
func (w *world) setUp(ctx context.Context) error {
	tries := 0
	for k := range w.parts() {
		err := w.await(ctx, "the streams", func() (time.Duration, error) {
			_, err := topology.Setup(ctx, w.js, w.part(k), topology.Layout{Tenants: w.tenants})
			if tries++; err == nil || tries > 20 {
				return 0, err
			}
			return settled, nil
		})
		if err != nil {
			return err
		}
	}
	return each(w.tenants, func(i int) error {
		_, err := topology.SetupConsumer(ctx, w.js, w.tenant(i), topology.Layout{})
		return err
	})
}

// tenant is the names of the i-th tenant.
func (w *world) tenant(i int) topology.Names {
	n := w.part(w.partOf(i))
	n.Tenant = tenantName(i)
	return n
}

// stopTime is how long a process may take to end.
const stopTime = time.Minute

// start starts a worker or a floor.
func (w *world) start(env map[string]string, args ...string) (*process, error) {
	port, err := sandbox.FreePort()
	if err != nil {
		return nil, err
	}
	p := &process{http: fmt.Sprintf("http://127.0.0.1:%d", port)}
	all := maps.Clone(w.env)
	all["WORKER_HTTP_ADDR"] = strings.TrimPrefix(p.http, "http://")
	maps.Copy(all, env)
	p.Process = &sandbox.Process{Args: args, Env: sandbox.Inherit(all), Log: filepath.Join(w.dir, fmt.Sprintf("process%d.log", len(w.processes)))}
	w.processes = append(w.processes, p)
	return p, p.Start()
}

// work starts the worker, with its defaults but for the rate.
func (w *world) work(rate string) (*process, error) {
	return w.start(map[string]string{"WORKER_RATE": rate}, w.worker, "run")
}

// workAll starts a worker without a limit for each stream, with its own list of tenants.
func (w *world) workAll() (all []*process, err error) {
	for k := range w.parts() {
		n := w.part(k)
		p, err := w.start(map[string]string{
			"WORKER_RATE": noRate, "WORKER_TENANTS_FILE": w.tenantsFile(k), "WORKER_STREAM": n.Stream, "WORKER_SUBJECT": n.Subject,
			"WORKER_FOLLOW_STREAM": n.FollowStream, "WORKER_FOLLOW_SUBJECT": n.FollowSubject,
		}, w.worker, "run")
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// noRate is the rate of a worker without a limit.
const noRate = "0"

// floor starts a floor.
func (w *world) floor(args ...string) (*process, error) {
	this, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return w.start(nil, append([]string{this, "floor"}, args...)...)
}

// end asks a process to stop, and fails where that does not go well.
func (p *process) end() error {
	p.over = true
	return p.End(stopTime)
}

// kill ends a process as a power cut does.
func (p *process) kill() {
	p.over = true
	p.Kill()
}

// alive fails where a process has ended by itself, so that nobody waits for it.
func (w *world) alive() error {
	for _, p := range w.processes {
		if !p.over && p.Wait(0) {
			return fmt.Errorf("%s has ended by itself, with status %d", filepath.Base(p.Args[0]), p.ExitCode())
		}
	}
	return nil
}

// close ends everything.
func (w *world) close() {
	for _, t := range w.twins {
		t.close()
	}
	for _, p := range w.processes {
		p.Kill()
	}
	if w.nc != nil {
		w.nc.Close()
	}
	if w.graph != nil {
		w.graph.Close()
	}
	for _, s := range w.nats {
		s.Kill()
	}
	if w.dir != "" {
		_ = os.RemoveAll(w.dir) // a temporary folder
	}
}

// streams are all that hold something.
func (w *world) streams() []string {
	n := w.names
	return []string{n.Stream, n.DeadStream, "KV_" + n.Bucket, "KV_" + n.StateBucket(), "KV_" + n.DeviceBucket(), n.FollowStream, "KV_" + n.OutcomeBucket()}
}

// fill empties the streams, and puts n requests on them.
func (w *world) fill(ctx context.Context, n int) error {
	for _, name := range w.streams() {
		if err := w.empty(ctx, name); err != nil {
			return err
		}
	}
	if err := errors.Join(w.unpin(ctx), w.graph.Forget()); err != nil {
		return err
	}
	return w.load(ctx, w.names.Filter(), 0, n)
}

// empty takes all that a stream holds off it.
func (w *world) empty(ctx context.Context, name string) error {
	s, err := w.js.Stream(ctx, name)
	if err == nil {
		err = s.Purge(ctx)
	}
	if err != nil {
		return fmt.Errorf("empty %s: %w", name, err)
	}
	return nil
}

// unpin lets the next process work at once, whatever the one before it has held.
func (w *world) unpin(ctx context.Context) error {
	s, err := w.js.Stream(ctx, w.names.Stream)
	if err != nil {
		return err
	}
	c, err := s.Consumer(ctx, w.names.Consumer())
	if err != nil {
		return err
	}
	for _, group := range c.CachedInfo().Config.PriorityGroups {
		if err := s.UnpinConsumer(ctx, w.names.Consumer(), group); err != nil {
			return err
		}
	}
	return nil
}

// request is the body of a request for the i-th device.
func request(i int) []byte {
	return fmt.Appendf(nil, `{"id":"B%d","managedDeviceId":%q,"requestedBy":"jo"}`, i, graphsim.GoodDevice(i))
}

// load puts n requests on the stream, for devices from a number on, and waits
// until they are stored.
func (w *world) load(ctx context.Context, subject string, from, n int) error {
	if err := w.send(subject, from, n); err != nil {
		return err
	}
	return w.stored(ctx)
}

// send is load without the wait.
func (w *world) send(subject string, from, n int) error {
	for i := range n {
		if _, err := w.js.PublishAsync(subject, request(from+i), jetstream.WithStallWait(stopTime)); err != nil {
			return err
		}
	}
	return nil
}

// stored waits until everything that was sent is.
func (w *world) stored(ctx context.Context) error {
	select {
	case <-w.js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
