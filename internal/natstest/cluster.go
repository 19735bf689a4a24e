package natstest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Cluster is three servers that replicate to each other. Each can be stopped
// and started again by itself. It is to be used by one goroutine at a time.
type Cluster struct{ Servers [3]*Server }

const (
	// A start from nothing is tried anew after startPatience: if the servers
	// split their first vote they wait for seconds before the next, and a free
	// port that was found can be taken by another program.
	startTries    = 5
	startPatience = 2 * time.Second
	pollInterval  = 10 * time.Millisecond
	// answerTime is how long one question of UntilAnswered waits.
	answerTime = 2 * time.Second
	// globalAccount is the account of clients where none is configured.
	globalAccount = "$G"
)

// StartCluster runs three servers; dir keeps their streams.
func StartCluster(dir string) (*Cluster, error) {
	return StartClusterWith(dir, server.Options{})
}

// StartClusterWith runs three servers with the given options; names, addresses,
// routes, JetStream and logging are set here.
func StartClusterWith(dir string, opts server.Options) (*Cluster, error) {
	if _, err := os.Stat(nodeDir(dir, 0)); err == nil {
		return startCluster(dir, opts, startTimeout) // with the streams of an earlier one
	}
	for range startTries - 1 {
		if c, err := startCluster(dir, opts, startPatience); err == nil {
			return c, nil
		}
		for i := range (Cluster{}).Servers {
			if err := os.RemoveAll(nodeDir(dir, i)); err != nil {
				return nil, err
			}
		}
	}
	return startCluster(dir, opts, startTimeout)
}

func nodeDir(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("node%d", i+1)) }

// clusterName is that of the cluster whose streams dir keeps. Another has another
// name: a port that was free may meanwhile be one of its own, and servers of one name
// join.
func clusterName(dir string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(dir)) // which never fails
	return fmt.Sprintf("test-%x", h.Sum64())
}

func startCluster(dir string, opts server.Options, patience time.Duration) (*Cluster, error) {
	ports, err := freePorts()
	if err != nil {
		return nil, err
	}
	routes := ""
	for _, port := range ports {
		routes += fmt.Sprintf(",nats://127.0.0.1:%d", port)
	}
	c := &Cluster{}
	for i := range c.Servers {
		s := &Server{opts: opts}
		s.opts.ServerName, s.opts.StoreDir = fmt.Sprintf("node%d", i+1), nodeDir(dir, i)
		s.opts.Host, s.opts.Port = "127.0.0.1", server.RANDOM_PORT
		s.opts.JetStream, s.opts.NoSigs, s.opts.NoLog = true, true, true
		s.opts.Cluster = server.ClusterOpts{Name: clusterName(dir), Host: "127.0.0.1", Port: ports[i]}
		s.opts.Routes = server.RoutesFromStr(routes[1:])
		if err := s.launch(); err != nil {
			c.Stop()
			return nil, err
		}
		c.Servers[i] = s
	}
	if err := c.wait(patience); err != nil {
		c.Stop()
		return nil, err
	}
	for _, s := range c.Servers {
		s.keepPort()
	}
	return c, nil
}

// Wait returns once the servers that run are up to date and have a leader who
// knows all of them.
func (c *Cluster) Wait() error { return c.wait(startTimeout) }

func (c *Cluster) wait(patience time.Duration) error {
	return poll(patience, "the NATS cluster did not become ready", func() bool {
		running, peers := 0, 0
		for _, s := range c.Servers {
			if !s.up {
				continue
			}
			running++
			if !s.srv.ReadyForConnections(time.Millisecond) || !s.srv.JetStreamIsCurrent() {
				return false
			}
			if s.srv.JetStreamIsLeader() {
				peers = len(s.srv.JetStreamClusterPeers())
			}
		}
		return peers >= running
	})
}

// StreamLeader waits until a stream has a leader, and returns its server. Stop
// it to take the leader away; like a server that gets SIGTERM, it hands over.
func (c *Cluster) StreamLeader(stream string) (*Server, error) {
	return c.leader("stream "+stream, func(s *server.Server) bool {
		return s.JetStreamIsStreamLeader(globalAccount, stream)
	})
}

// ConsumerLeader waits until a consumer has a leader, and returns its server.
func (c *Cluster) ConsumerLeader(stream, consumer string) (*Server, error) {
	return c.leader("consumer "+consumer, func(s *server.Server) bool {
		return s.JetStreamIsConsumerLeader(globalAccount, stream, consumer)
	})
}

func (c *Cluster) leader(what string, leads func(*server.Server) bool) (*Server, error) {
	var found *Server
	err := poll(startTimeout, "no server leads the "+what, func() bool {
		for _, s := range c.Servers {
			if s.up && leads(s.srv) {
				found = s
				return true
			}
		}
		return false
	})
	return found, err
}

// UntilAnswered asks again where nobody answers, until ctx ends. A cluster that elects a
// leader loses questions that need one. What ask does must bear to be done twice.
func UntilAnswered(ctx context.Context, ask func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, answerTime)
		err := ask(try)
		unanswered := try.Err() != nil
		cancel()
		if err == nil || !unanswered || ctx.Err() != nil {
			return err
		}
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
		if s != nil {
			s.Stop()
		}
	}
}

func poll(patience time.Duration, failure string, ok func() bool) error {
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			return errors.New(failure)
		}
		time.Sleep(pollInterval)
	}
	return nil
}

// freePorts finds three ports that nobody listens on.
func freePorts() (ports [3]int, err error) {
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return ports, fmt.Errorf("find a free port: %w", err)
		}
		// Only its number is wanted; kept until all are found, so that they differ.
		defer func() { _ = l.Close() }()
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return ports, fmt.Errorf("%s is not a TCP address", l.Addr())
		}
		ports[i] = addr.Port
	}
	return ports, nil
}
