package natstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// asServer is the variable that makes a program be a NATS server. Its value is
// a [node].
const asServer = "NATSTEST_AS_SERVER"

// node is what a server process is told.
type node struct {
	Name, Dir string
	Port      int
	// ClusterPort and Routes are of a cluster; 0 and empty: there is none.
	ClusterPort int
	Routes      string
	// HTTPPort serves the server's monitoring; 0: nothing does.
	HTTPPort int
	ProcessOptions
}

// ProcessOptions say how server processes differ from the default.
type ProcessOptions struct {
	// SyncAlways has each write reach the disk before it is acknowledged, as
	// "sync_interval: always" does.
	SyncAlways bool
	// Monitor has each server serve its monitoring, see [Process.Monitor].
	Monitor bool
}

func (n node) options() *server.Options {
	o := &server.Options{
		ServerName: n.Name, StoreDir: n.Dir, Host: "127.0.0.1", Port: n.Port, JetStream: true, NoSigs: true, NoLog: true,
		SyncAlways: n.SyncAlways,
	}
	if n.HTTPPort != 0 {
		o.HTTPHost, o.HTTPPort = "127.0.0.1", n.HTTPPort
	}
	if n.ClusterPort != 0 {
		o.Cluster = server.ClusterOpts{Name: clusterName(filepath.Dir(n.Dir)), Host: "127.0.0.1", Port: n.ClusterPort}
		o.Routes = server.RoutesFromStr(n.Routes)
	}
	return o
}

// Main has to be called first by a program that starts a [Process]: started as
// one, the program is a NATS server, and Main does not return.
func Main() {
	asked := os.Getenv(asServer)
	if asked == "" {
		return
	}
	if err := serve(asked); err != nil {
		fmt.Fprintln(os.Stderr, "NATS server:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve ends with the process that has started this one, however that ends.
func serve(asked string) error {
	var n node
	if err := json.Unmarshal([]byte(asked), &n); err != nil {
		return err
	}
	s, err := server.NewServer(n.options())
	if err != nil {
		return err
	}
	go s.Start()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// Process is a server in a process of its own: the program's own file, started
// once more. It can be killed as a power cut does, and started again on its
// store and its port. It is to be used by one goroutine at a time.
type Process struct {
	node  node
	cmd   *exec.Cmd
	alive io.Closer // the process ends when it is closed
}

// StartProcess runs a server; dir keeps its streams.
func StartProcess(dir string) (*Process, error) { return StartProcessWith(dir, ProcessOptions{}) }

// StartProcessWith runs a server with some options; dir keeps its streams.
func StartProcessWith(dir string, o ProcessOptions) (*Process, error) {
	ports, err := freePorts()
	if err != nil {
		return nil, err
	}
	p := &Process{node: node{Name: "test", Dir: dir, Port: ports[0], ProcessOptions: o}}
	if o.Monitor {
		p.node.HTTPPort = ports[1]
	}
	return p, p.Start()
}

// URL is the address for clients.
func (p *Process) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", p.node.Port) }

// Monitor is the root of the server's monitoring over HTTP; it must have been asked for.
func (p *Process) Monitor() string { return fmt.Sprintf("http://127.0.0.1:%d", p.node.HTTPPort) }

// Pid is the number of the process; it must be running.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Name is the server's name, by which a cluster calls its leaders.
func (p *Process) Name() string { return p.node.Name }

// Start starts a server that is not running, and waits until it takes clients.
// A single one has its streams then.
func (p *Process) Start() error {
	if err := p.launch(); err != nil {
		return err
	}
	ready := func() bool {
		nc, err := nats.Connect(p.URL())
		if err != nil {
			return false
		}
		defer nc.Close()
		return p.node.ClusterPort != 0 || hasJetStream(nc)
	}
	if err := poll(startTimeout, "the NATS server process did not become ready", ready); err != nil {
		p.Kill()
		return err
	}
	return nil
}

func hasJetStream(nc *nats.Conn) bool {
	reply, err := nc.Request("$JS.API.INFO", nil, time.Second)
	return err == nil && !strings.Contains(string(reply.Data), `"error"`)
}

func (p *Process) launch() error {
	if p.cmd != nil {
		return errors.New("the NATS server process is running already")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	asked, err := json.Marshal(p.node)
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asServer+"="+string(asked))
	cmd.Stderr = os.Stderr
	if p.alive, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("NATS server process: %w", err)
	}
	p.cmd = cmd
	return nil
}

// Running reports whether the process was started and not killed.
func (p *Process) Running() bool { return p.cmd != nil }

// Kill ends the process at once, without a word to anybody, and waits until it
// is gone. Its store stays. It does nothing to one that is not running.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended by itself
	_ = p.cmd.Wait()         // the error says that it was killed
	_ = p.alive.Close()
	p.cmd = nil
}

// Processes is a cluster of three servers in processes of their own.
type Processes [3]*Process

// StartProcesses runs three servers that replicate to each other; dir keeps
// their streams.
func StartProcesses(dir string) (*Processes, error) {
	return StartProcessesWith(dir, ProcessOptions{})
}

// StartProcessesWith is [StartProcesses] with some options.
func StartProcessesWith(dir string, o ProcessOptions) (*Processes, error) {
	clients, err := freePorts()
	if err != nil {
		return nil, err
	}
	routing, err := freePorts()
	if err != nil {
		return nil, err
	}
	monitors, err := freePorts()
	if err != nil {
		return nil, err
	}
	var routes []string
	for _, port := range routing {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	c := &Processes{}
	for i := range c {
		c[i] = &Process{node: node{Name: fmt.Sprintf("node%d", i+1), Dir: nodeDir(dir, i), Port: clients[i],
			ClusterPort: routing[i], Routes: strings.Join(routes, ","), ProcessOptions: o}}
		if o.Monitor {
			c[i].node.HTTPPort = monitors[i]
		}
		if err := c[i].launch(); err != nil {
			c.Kill()
			return nil, err
		}
	}
	err = poll(2*startTimeout, "the cluster of NATS server processes did not become ready", func() bool {
		nc, err := nats.Connect(c.URL())
		if err != nil {
			return false
		}
		defer nc.Close()
		return hasJetStream(nc)
	})
	if err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

// URL names all servers.
func (c *Processes) URL() string {
	var urls []string
	for _, p := range c {
		urls = append(urls, p.URL())
	}
	return strings.Join(urls, ",")
}

// Named is the server of that name; nil if there is none.
func (c *Processes) Named(name string) *Process {
	for _, p := range c {
		if p.Name() == name {
			return p
		}
	}
	return nil
}

// Kill ends all servers.
func (c *Processes) Kill() {
	for _, p := range c {
		if p != nil {
			p.Kill()
		}
	}
}
