// Command alerts evaluates alerting rules over samples that a game day scraped, with Prometheus's own rule engine. It is a
// module of its own, so that Prometheus is no dependency of the service.
//
// usage: alerts RULES < RUN     RUN and the output are JSON, as in run.go
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "alerts:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: alerts RULES < RUN")
	}
	var in Run
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return fmt.Errorf("read the run: %w", err)
	}
	out, err := evaluate(args[0], in)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}
