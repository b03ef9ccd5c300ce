// Command iam-service is the policy and claims engine: see README.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"iam-service/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(cli.Main(ctx))
}
