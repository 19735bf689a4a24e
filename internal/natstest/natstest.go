// Package natstest runs real NATS servers with JetStream inside a test, or
// inside the sandbox.
package natstest

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startTimeout is how long a server may take to be ready.
const startTimeout = 20 * time.Second

// Server is one server that can be stopped and started again on its store.
type Server struct {
	opts server.Options
	srv  *server.Server
}

// Start runs a server on a port of its own choice. dir keeps its streams.
func Start(dir string) (*Server, error) {
	return StartWith(server.Options{ServerName: "test", StoreDir: dir})
}

// StartWith runs a server with the given options; address, JetStream and
// logging are set here.
func StartWith(opts server.Options) (*Server, error) {
	opts.JetStream = true
	opts.NoSigs = true
	opts.NoLog = true
	if opts.Host == "" {
		opts.Host = "127.0.0.1"
	}
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	s := &Server{opts: opts}
	return s, s.Restart()
}

// Restart starts a stopped server again on its store and its port.
func (s *Server) Restart() error {
	if err := s.launch(); err != nil {
		return err
	}
	if !s.srv.ReadyForConnections(startTimeout) {
		s.Stop()
		return errors.New("the NATS server did not become ready")
	}
	if addr, ok := s.srv.Addr().(*net.TCPAddr); ok {
		s.opts.Port = addr.Port
	}
	return nil
}

func (s *Server) launch() error {
	opts := s.opts // the server changes what it is given
	srv, err := server.NewServer(&opts)
	if err != nil {
		return fmt.Errorf("NATS server: %w", err)
	}
	s.srv = srv
	go srv.Start()
	return nil
}

// URL is the address for clients.
func (s *Server) URL() string { return s.srv.ClientURL() }

// Stop ends the server and waits until it is gone. Its store stays.
func (s *Server) Stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// Cluster is three servers that replicate to each other.
type Cluster struct{ Servers [3]*Server }

// StartCluster runs three servers; dir keeps their streams.
func StartCluster(dir string) (*Cluster, error) {
	var ports [3]int
	routes := ""
	for i := range ports {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		ports[i] = port
		routes += fmt.Sprintf(",nats://127.0.0.1:%d", port)
	}
	c := &Cluster{}
	for i := range c.Servers {
		c.Servers[i] = &Server{opts: server.Options{
			ServerName: fmt.Sprintf("node%d", i+1),
			StoreDir:   fmt.Sprintf("%s/node%d", dir, i+1),
			Host:       "127.0.0.1",
			Port:       server.RANDOM_PORT,
			JetStream:  true,
			NoSigs:     true,
			NoLog:      true,
			Cluster:    server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i]},
			Routes:     server.RoutesFromStr(routes[1:]),
		}}
		if err := c.Servers[i].launch(); err != nil {
			return nil, err
		}
	}
	return c, c.wait()
}

// wait returns once the cluster has a leader and every server is up to date.
func (c *Cluster) wait() error {
	deadline := time.Now().Add(startTimeout)
	for {
		ready, leader := 0, false
		for _, s := range c.Servers {
			leader = leader || s.srv.JetStreamIsLeader()
			if s.srv.ReadyForConnections(time.Millisecond) && s.srv.JetStreamIsCurrent() {
				ready++
			}
		}
		if leader && ready == len(c.Servers) {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the NATS cluster did not become ready")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// URL names all servers.
func (c *Cluster) URL() string {
	url := ""
	for _, s := range c.Servers {
		url += "," + s.URL()
	}
	return url[1:]
}

// Stop ends all servers.
func (c *Cluster) Stop() {
	for _, s := range c.Servers {
		s.Stop()
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }() // only its number was wanted
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("%s is not a TCP address", l.Addr())
	}
	return addr.Port, nil
}
