# The first target is what "make" alone shows.
.DEFAULT_GOAL := help
SHELL := /bin/sh

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X iam-service/internal/app.Version=$(VERSION)
LINT := go tool -modfile=.ci/golangci-lint.mod golangci-lint

.PHONY: help
help: ## show this
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: need-go
need-go:
	@command -v go >/dev/null || { echo "Go is missing: install Go $$(sed -n 's/^go //p' go.mod) or newer from https://go.dev/dl/"; exit 1; }

.PHONY: run
run: need-go ## start the service with everything it needs embedded; ARGS=--fresh starts over
	@go build -o bin/iam-dev ./cmd/iam-dev
	@exec ./bin/iam-dev $(ARGS)

.PHONY: test
test: need-go ## all tests: units, Rego, real PostgreSQL, the program itself
	go vet ./...
	go test -race -timeout 10m ./...

.PHONY: lint
lint: need-go ## golangci-lint, pinned, built from source
	$(LINT) run

.PHONY: fmt
fmt: need-go ## format
	$(LINT) fmt

.PHONY: build
build: need-go ## bin/iam-service, static
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/iam-service ./cmd/iam-service

.PHONY: image
image: ## a container image (needs a Docker engine)
	docker build --build-arg VERSION=$(VERSION) -t iam-service:$(VERSION) .

.PHONY: bench
bench: need-go ## CPU and allocations of an enrichment, beside bare net/http in the same run
	go test -run "^$$" -bench Allocations -count 3 ./internal/bench
	go test -run "^$$" -bench "Enrich$$" -benchtime 1x ./internal/bench

.PHONY: scale
scale: need-go ## 1,000,000 users in PostgreSQL: time to ready and resident memory
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/iam-service ./cmd/iam-service
	@go build -o bin/iam-dev ./cmd/iam-dev
	@./bin/iam-dev scale --service bin/iam-service

.PHONY: nightly
nightly: need-go ## the long forms: fuzzing, many property steps, benchmarks; writes docs/nightly.md
	.ci/nightly
