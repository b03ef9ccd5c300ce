package main

import (
	"errors"
	"net"
	"strconv"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// natsServer is NATS with JetStream in process.
type natsServer struct {
	dir string
	ns  *natsserver.Server
}

func (n *natsServer) start(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	n.ns, err = natsserver.NewServer(&natsserver.Options{Host: host, Port: p, JetStream: true, StoreDir: n.dir, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	go n.ns.Start()
	if !n.ns.ReadyForConnections(time.Minute) {
		return errors.New("NATS does not answer")
	}
	return nil
}

func (n *natsServer) stop() {
	if n.ns != nil {
		n.ns.Shutdown()
		n.ns.WaitForShutdown()
		n.ns = nil
	}
}
