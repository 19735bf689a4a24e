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
const startTimeout = 60 * time.Second

// Server is one server that can be stopped and started again on its store. It
// is to be used by one goroutine at a time.
type Server struct {
	opts server.Options
	srv  *server.Server
	up   bool // started and not stopped
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
	if opts.AuthTimeout == 0 {
		opts.AuthTimeout = 30 // seconds; a client on a busy machine may be slow
	}
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
	s.keepPort()
	return nil
}

// keepPort makes the server listen on the same port when it is started again.
func (s *Server) keepPort() {
	if addr, ok := s.srv.Addr().(*net.TCPAddr); ok {
		s.opts.Port = addr.Port
	}
}

func (s *Server) launch() error {
	opts := s.opts // the server changes what it is given
	srv, err := server.NewServer(&opts)
	if err != nil {
		return fmt.Errorf("NATS server: %w", err)
	}
	s.srv, s.up = srv, true
	go srv.Start()
	return nil
}

// URL is the address for clients.
func (s *Server) URL() string { return s.srv.ClientURL() }

// Stop ends the server and waits until it is gone. Its store stays.
func (s *Server) Stop() {
	s.up = false
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}
