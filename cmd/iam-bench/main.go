// Command iam-bench runs replicas of the production program under load and prints what docs/figures
// holds: how fast a change reaches all replicas, how memory follows the caches, the cost of a preview.
// It is for development: it starts PostgreSQL, an R-Auth and NATS of its own.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// benchmarks are the subcommands. Each prints its figures, and fails if it misses a target.
var benchmarks = map[string]func(ctx context.Context, args []string) error{
	"scale":       scale,
	"access":      access,
	"propagation": propagation,
	"rollout":     rollout,
	"preview":     preview,
	"soak":        soak,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "iam-bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	names := strings.Join(slices.Sorted(maps.Keys(benchmarks)), ", ")
	if len(args) == 0 {
		return fmt.Errorf("name a benchmark: %s", names)
	}
	benchmark, found := benchmarks[args[0]]
	if !found {
		return fmt.Errorf("unknown benchmark %q: use %s", args[0], names)
	}
	return benchmark(ctx, args[1:])
}
