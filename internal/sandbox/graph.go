package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"slices"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// Graph is a simulated Entra and Graph in a process of its own, so that what they
// cost is not counted with what calls them.
type Graph struct {
	cmd    *exec.Cmd
	client *rpc.Client
	at     [2]string // URL and authority
}

// StartGraph starts a program that calls [ServeGraph] with its standard input and
// output. The process ends with this one, however that ends.
func StartGraph(cfg graphsim.Config, cmd *exec.Cmd) (*Graph, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("process of the simulated Graph: %w", err)
	}
	g := &Graph{cmd: cmd, client: jsonrpc.NewClient(duplex{out, in})}
	if err := g.client.Call("Graph.Start", cfg, &g.at); err != nil {
		g.Close()
		return nil, fmt.Errorf("process of the simulated Graph: %w", err)
	}
	return g, nil
}

// URL is the root of both services.
func (g *Graph) URL() string { return g.at[0] }

// CAPEM is the authority of their certificate.
func (g *Graph) CAPEM() []byte { return []byte(g.at[1]) }

// Pid is the number of the process.
func (g *Graph) Pid() int { return g.cmd.Process.Pid }

// Status is [graphsim.Sim.Status].
func (g *Graph) Status() (s graphsim.Status, err error) {
	err = g.client.Call("Graph.Status", struct{}{}, &s)
	return s, err
}

// Posts are the calls that were made after an instant, but for those that read.
func (g *Graph) Posts(after time.Time) (calls []graphsim.Call, err error) {
	err = g.client.Call("Graph.Posts", after, &calls)
	return calls, err
}

// Forget is [graphsim.Sim.Forget].
func (g *Graph) Forget() error { return g.client.Call("Graph.Forget", struct{}{}, &struct{}{}) }

// SetOutage is [graphsim.Sim.SetTenantOutage]; an empty tenant means the whole system.
func (g *Graph) SetOutage(tenant string, o graphsim.Outage) error {
	return g.client.Call("Graph.SetOutage", [2]string{tenant, o.String()}, &struct{}{})
}

// GrantNothing lets each call of a tenant be answered 429.
func (g *Graph) GrantNothing(tenant string) error {
	return g.client.Call("Graph.GrantNothing", tenant, &struct{}{})
}

// Close ends the process.
func (g *Graph) Close() {
	_ = g.client.Close()     // its input ends with it
	_ = g.cmd.Process.Kill() // what it holds goes with it
	_ = g.cmd.Wait()         // the error says that it was killed
}

// ServeGraph simulates Entra and Graph as the other side of in and out asks, until in ends.
func ServeGraph(in io.ReadCloser, out io.WriteCloser) error {
	s := rpc.NewServer()
	g := &remote{}
	if err := s.RegisterName("Graph", g); err != nil {
		return err
	}
	s.ServeCodec(jsonrpc.NewServerCodec(duplex{in, out}))
	if g.sim == nil {
		return nil
	}
	return g.sim.Close()
}

// duplex is both directions of a pair of pipes.
type duplex struct {
	io.ReadCloser
	out io.WriteCloser
}

// Write writes to the other side.
func (d duplex) Write(p []byte) (int, error) { return d.out.Write(p) }

// Close closes both.
func (d duplex) Close() error { return errors.Join(d.ReadCloser.Close(), d.out.Close()) }

// remote is what can be asked of the process. Its methods and their types have the form
// that net/rpc wants.
type remote struct{ sim *graphsim.Sim }

// Start returns the address, and the authority of its certificate in PEM form.
func (r *remote) Start(cfg graphsim.Config, at *[2]string) (err error) {
	if r.sim, err = graphsim.Start(cfg); err != nil {
		return err
	}
	*at = [2]string{r.sim.URL(), string(r.sim.CAPEM())}
	return nil
}

func (r *remote) Status(_ struct{}, s *graphsim.Status) error {
	*s = r.sim.Status()
	return nil
}

func (r *remote) Posts(after time.Time, calls *[]graphsim.Call) error {
	*calls = slices.DeleteFunc(r.sim.Calls(), func(c graphsim.Call) bool { return c.Method != http.MethodPost || !c.Time.After(after) })
	return nil
}

func (r *remote) Forget(_ struct{}, _ *struct{}) error {
	r.sim.Forget()
	return nil
}

// SetOutage takes a tenant, or none, and the kind of outage in words.
func (r *remote) SetOutage(of [2]string, _ *struct{}) error {
	o, err := graphsim.ParseOutage(of[1])
	switch {
	case err != nil:
		return err
	case of[0] == "":
		r.sim.SetOutage(o)
	default:
		r.sim.SetTenantOutage(of[0], o)
	}
	return nil
}

func (r *remote) GrantNothing(tenant string, _ *struct{}) error {
	r.sim.SetTenantQuota(tenant, -1, 0)
	return nil
}
