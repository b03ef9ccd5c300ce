// Package freeport finds loopback ports for programs that are given theirs before they
// listen. Such a port lies outside of the ephemeral range (RFC 6335, section 6; on Linux 32768
// to 60999), from which another program may get it before the first one has started.
//
// It does not know the programs.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
)

const (
	least = 10_000
	most  = 32_000
	tries = 100 // for each port
)

// Addrs returns n different addresses that are not in use, such as 127.0.0.1:12345.
func Addrs(n int) ([]string, error) {
	var addrs []string
	var last error
	for try := 0; len(addrs) < n; try++ {
		if try == n*tries {
			return nil, fmt.Errorf("find a free port: %w", last)
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", least+rand.IntN(most-least)))
		if err != nil {
			last = err
			continue
		}
		defer l.Close() // all are held until the last is chosen
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// Port is one of them.
func Port() (int, error) {
	addrs, err := Addrs(1)
	if err != nil {
		return 0, err
	}
	a, err := net.ResolveTCPAddr("tcp", addrs[0])
	if err != nil {
		return 0, err
	}
	return a.Port, nil
}
