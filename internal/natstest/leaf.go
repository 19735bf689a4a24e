package natstest

import (
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/nats-io/nats-server/v2/server"
)

// StartLeaf runs a hub and a leaf node of it, each with JetStream of its own, in
// the domains "hub" and "leaf"; dir keeps their streams.
func StartLeaf(dir string) (hub, leaf *Server, err error) {
	// The port for leaf nodes has to be known before, so another program may take it.
	ports, err := freePorts()
	if err != nil {
		return nil, nil, err
	}
	hub, err = StartWith(server.Options{
		ServerName: "hub", JetStreamDomain: "hub", StoreDir: filepath.Join(dir, "hub"),
		LeafNode: server.LeafNodeOpts{Host: "127.0.0.1", Port: ports[0]},
	})
	if err != nil {
		return nil, nil, err
	}
	leaf, err = StartWith(server.Options{
		ServerName: "leaf", JetStreamDomain: "leaf", StoreDir: filepath.Join(dir, "leaf"),
		LeafNode: server.LeafNodeOpts{Remotes: []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", ports[0])}}}}},
	})
	if err != nil {
		hub.Stop()
		return nil, nil, err
	}
	err = poll(startTimeout, "the leaf node did not reach its hub", func() bool { return hub.srv.NumLeafNodes() == 1 && leaf.srv.NumLeafNodes() == 1 })
	if err != nil {
		leaf.Stop()
		hub.Stop()
		return nil, nil, err
	}
	return hub, leaf, nil
}
