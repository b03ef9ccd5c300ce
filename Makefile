# "make" without a target prints the help.
.DEFAULT_GOAL := help
SHELL := /bin/sh

GO_IMAGE ?= golang:1.26-bookworm
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X iam-service/internal/server.Version=$(VERSION)
# The same commit gives the same bytes, in the image too: no paths, and VERSION in the place of the version control's stamp.
BUILD := -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
LINT := go tool -modfile=.ci/golangci-lint.mod golangci-lint

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: need-go
need-go:
	@command -v go >/dev/null || { echo "Go is missing: install Go $$(sed -n 's/^go //p' go.mod) or newer from https://go.dev/dl/"; exit 1; }

.PHONY: run
run: need-go ## run the service with PostgreSQL, R-Auth and NATS embedded, and sample data; ARGS=--fresh starts over
	@go build -o bin/iam-dev ./cmd/iam-dev
	@exec ./bin/iam-dev $(ARGS)

# The race detector, but not inside of OPA, which costs it most of the time: locks are seen there too, reads and
# writes are not. "make nightly" has it everywhere.
RACE := -race -gcflags='github.com/open-policy-agent/opa/...=-race=false'
# Packages whose own code shares no memory between goroutines: commands, tools, handlers and rules over what is tested
# with the detector in its own package, and the machine of policies, which internal/policy runs.
WITHOUT_RACE := ^iam-service/(cmd|docs|internal/(admin|adminapi|cli|dev|gateway/(authzen|probe|setup)|iam|policy/(authoring|builtins|plan))|migrations|policies)(/|$$)

# Three packages at once on two processors, since tests wait for other processes; most memory of a test lives as long as
# the test, so that fewer collections save CPU; the race detector need not wait a second at the end of each package;
# "go vet ./..." has run.
SHORT := GOGC=400 GORACE=atexit_sleep_ms=10 go test -vet=off -p $$((($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2)) -short -timeout 15m

.PHONY: test
test: need-go ## all tests: unit, Rego, PostgreSQL, end to end; "make nightly" runs the long forms
	go vet ./...
	@status=0; \
	$(SHORT) $$(go list ./... | grep -E '$(WITHOUT_RACE)') || status=1; \
	$(SHORT) $(RACE) $$(go list ./... | grep -vE '$(WITHOUT_RACE)') || status=1; \
	exit $$status

# The packages whose tests do not depend on devpg, which runs PostgreSQL.
WITHOUT_POSTGRES = go list -test -f '{{if .ForTest}}{{else}}{{$$pg := false}}{{range .Deps}}{{if eq . "iam-service/internal/dev/devpg"}}{{$$pg = true}}{{end}}{{end}}{{if not $$pg}}{{.ImportPath}}{{end}}{{end}}' ./... | sed -n 's/\.test$$//p'

.PHONY: check
check: need-go ## before each commit, in about a minute: format, vet, lint, and the tests without PostgreSQL
	$(LINT) fmt --diff
	go vet ./...
	$(LINT) run
	go test -short $$($(WITHOUT_POSTGRES))

.PHONY: lint
lint: need-go ## run golangci-lint and actionlint, pinned, built from source
	$(LINT) run
	go tool -modfile=.ci/actionlint.mod actionlint

.PHONY: fmt
fmt: need-go ## format the Go code
	$(LINT) fmt

BINARY ?= bin/iam-service

.PHONY: build
build: need-go ## build bin/iam-service, a static binary
	CGO_ENABLED=0 go build $(BUILD) -o $(BINARY) ./cmd/iam-service

.PHONY: sbom
sbom: need-go ## write bin/sbom.json, the modules of the binary, in CycloneDX's format
	@mkdir -p bin
	go tool -modfile=.ci/cyclonedx-gomod.mod cyclonedx-gomod app -json -licenses -std -noserial -notimestamp -main cmd/iam-service -output bin/sbom.json .

.PHONY: vulncheck
vulncheck: need-go ## look for known vulnerabilities; skipped without the database, unless VULNCHECK=required
	.ci/vulncheck

.PHONY: licences
licences: need-go ## check the licences of dependencies, and docs/licences.md; UPDATE=1 writes it
	go -C .ci/licences run . $(CURDIR) docs/licences.md $(if $(UPDATE),-update)

.PHONY: test-reproducible
test-reproducible: need-go ## build the same commit in two folders with caches of their own: the binaries must be equal
	.ci/reproducible

.PHONY: release
release: need-go ## check, test and build a release, and print the command that tags it: VERSION=x.y.z
	.ci/release "$(VERSION)"

.PHONY: bundle
bundle: build ## test, check, build and sign bundles/iam.tar.gz from policies/: KEY=private.pem
	@test -n "$(KEY)" || { echo "name the key that signs: make bundle KEY=private.pem"; \
		echo "to create one: openssl ecparam -genkey -name prime256v1 -noout | openssl pkcs8 -topk8 -nocrypt -out private.pem; openssl ec -in private.pem -pubout -out public.pem"; exit 1; }
	bin/iam-service policy test policies
	bin/iam-service policy check policies
	bin/iam-service policy build policies -o bundles/iam.tar.gz --revision "$(VERSION)" --key "$(KEY)"

.PHONY: image
image: ## build a container image (needs Docker); for a release pin the base: GO_IMAGE=golang:…@sha256:…
	@case "$(GO_IMAGE)" in *@sha256:*) ;; *) \
		echo "GO_IMAGE=$(GO_IMAGE) is a tag, which can be moved; a release names a digest: GO_IMAGE=$(GO_IMAGE)@sha256:…"; [ -z "$$CI" ] || exit 1;; esac
	docker build --build-arg VERSION=$(VERSION) --build-arg GO_IMAGE=$(GO_IMAGE) -t iam-service:$(VERSION) .

OPA := go tool -modfile=.ci/opa.mod opa

.PHONY: bench
bench: need-go ## measure CPU and allocations of an enrichment, the decision log, the event relay and the creation of clients
	@$(OPA) version >/dev/null # builds it
	@.ci/save bench $(MAKE) --no-print-directory all-benchmarks

.PHONY: all-benchmarks
all-benchmarks:
	go test -run "^$$" -bench Allocations -count 3 ./internal/dev/bench
	go test -run "^$$" -bench Engines -benchtime 1x ./internal/policy
	go test -run "^$$" -bench Verification -benchtime 1x ./internal/token
	go test -run "^$$" -bench FirstAnswer -benchtime 1x ./internal/gateway
	go test -run "^$$" -bench Relay -benchtime 50000x ./internal/events/natsbus
	go test -run "^$$" -bench AClientIsCreated -benchtime 20x ./internal/adminapi
	OPA="$$(go tool -modfile=.ci/opa.mod -n opa)" go test -run "^$$" -bench "Peers|FixedRate|DecisionLog|Tracing" -benchtime 1x -timeout 30m ./internal/dev/bench

.PHONY: figures
figures: need-go ## compare the figures of README and docs/performance.md with the output of the last runs
	@go run ./internal/dev/bench/figures

.PHONY: profile
profile: need-go ## profile an enrichment, for "go tool pprof"
	@mkdir -p bin/profiles
	@go test -c -o bin/bench.test ./internal/dev/bench
	@PROFILES=$(CURDIR)/bin/profiles bin/bench.test -test.run '^$$' -test.bench Profile -test.benchtime 1x >/dev/null
	@for p in decision token nothing; do echo; echo "== $$p cached =="; go tool pprof -top -cum -nodecount 25 bin/bench.test bin/profiles/$$p.prof 2>/dev/null; done
	@echo; echo "more: go tool pprof -http=: bin/bench.test bin/profiles/decision.prof"

.PHONY: programs
programs: build
	@go build -o bin/iam-bench ./cmd/iam-bench

.PHONY: propagation
propagation: programs ## measure how long a removed role is still in responses, on three replicas
	@.ci/save propagation ./bin/iam-bench propagation --service bin/iam-service

.PHONY: rollout
rollout: programs ## measure how long activations and rollbacks of policies take, on three replicas
	@.ci/save rollout ./bin/iam-bench rollout --service bin/iam-service

.PHONY: scale
scale: programs ## measure start-up time, memory and CPU with 10,000 to 1,000,000 users
	@.ci/save scale ./bin/iam-bench scale --service bin/iam-service

.PHONY: access
access: programs ## measure who holds a role in a tenant of 1,000,000 members: pages, export, and what the index costs writes
	@.ci/save access ./bin/iam-bench access --service bin/iam-service

.PHONY: preview
preview: programs ## measure time and memory of a policy preview over 1,000,000 members
	@.ci/save preview ./bin/iam-bench preview --service bin/iam-service

SOAK ?= 1h

.PHONY: soak
soak: programs ## run two replicas under load, with changes, rotations, activations and reconnects: nothing may grow; SOAK=10m
	@.ci/save soak ./bin/iam-bench soak --service bin/iam-service --for $(SOAK)

.PHONY: test-hydra
test-hydra: need-go ## test clients and tokens with Ory Hydra, built from its Go module (needs gcc)
	go build -modfile=.ci/hydra.mod -tags sqlite -o bin/hydra github.com/ory/hydra/v2
	HYDRA=$(CURDIR)/bin/hydra go test -count=1 -run OryHydra ./internal/clients/rauth ./internal/console ./internal/dev/manifests ./cmd/iam-service

.PHONY: test-gateways
test-gateways: need-go ## test the generated configurations with nginx, HAProxy and Caddy (installs them as root with apt)
	.ci/gateways
	GATEWAYS=nginx,haproxy,caddy go test -count=1 -run Gateway ./internal/gateway/setup ./internal/gateway/probe

.PHONY: test-pooler
test-pooler: need-go ## test what doctor says of PgBouncer in transaction mode (installs it as root with apt)
	.ci/install pgbouncer
	POOLER=pgbouncer go test -count=1 -run Pooler ./internal/server/doctor

.PHONY: test-upgrade
test-upgrade: need-go ## test the program of the release before on the schema of this commit; REF=… names another commit
	REF="$(REF)" .ci/upgrade

.PHONY: test-built-gateways
test-built-gateways: need-go ## test the generated configurations with the newest Traefik and Caddy, built from their Go modules, and those for Kubernetes by their definitions
	GATEWAYS=kubernetes go test -count=1 -run Gateways ./internal/dev/manifests
	.ci/traefik
	go build -modfile=.ci/caddy.mod -o bin/caddy github.com/caddyserver/caddy/v2/cmd/caddy
	TRAEFIK=$(CURDIR)/bin/traefik CADDY=$(CURDIR)/bin/caddy GATEWAYS=traefik,caddy go test -count=1 -run 'Gateway.*/(traefik|caddy)$$' ./internal/gateway/setup
	TRAEFIK=$(CURDIR)/bin/traefik go test -count=1 -run TraefikOfCompose ./internal/dev/manifests

# The version of Kubernetes, and where its programs are cached: they take minutes to build, and seconds to start.
KUBERNETES_VERSION = $(shell sed -n 's,^\tk8s.io/kubernetes \(v[^ ]*\).*,\1,p' .ci/kubernetes.mod)
KUBERNETES_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/iam-service/kubernetes-$(KUBERNETES_VERSION)

.PHONY: test-deploy
test-deploy: need-go ## test the manifests, their roll-out and rollback, and the runbook's commands on a real API server
	.ci/kubernetes "$(KUBERNETES_CACHE)"
	KUBERNETES="$(KUBERNETES_CACHE)" go test -count=1 -timeout 20m ./internal/dev/manifests/...

.PHONY: gameday
gameday: need-go ## rehearse outages with three replicas behind HAProxy, in some ten minutes; writes docs/gamedays.md (needs root; installs HAProxy with apt)
	.ci/gateways
	GAMEDAYS=1 go test -count=1 -parallel 3 -timeout 40m -run GameDays ./internal/dev/gameday

.PHONY: test-defences
test-defences: need-go ## remove each defence of SECURITY.md in turn: its test must fail; ONLY=regexp of threats
	go run ./internal/dev/defences/takeout "$(ONLY)"

.PHONY: test-rules
test-rules: need-go ## check the alerts of deploy/prometheus and the queries of the dashboard, by promtool
	go tool -modfile=.ci/promtool.mod promtool check rules --lint-fatal deploy/prometheus/rules.yaml
	go tool -modfile=.ci/promtool.mod promtool test rules deploy/prometheus/rules_test.yaml
	@mkdir -p bin
	go run ./internal/dev/dashboard -rules > bin/dashboard-queries.yaml
	go tool -modfile=.ci/promtool.mod promtool check rules --lint-fatal bin/dashboard-queries.yaml

.PHONY: dashboard
dashboard: need-go ## write deploy/grafana/iam-service.json from the panels of internal/dev/dashboard
	go run ./internal/dev/dashboard > deploy/grafana/iam-service.json

.PHONY: console
console: need-go ## build the console of web/ into internal/console/dist (needs Node)
	.ci/console build

.PHONY: console-check
console-check: need-go ## lint and test the sources of the console, and compare internal/console/dist with them (needs Node)
	.ci/console check

.PHONY: test-console
test-console: need-go ## the console in a real browser, against the running program (needs Node; installs Debian's Chromium as root)
	.ci/console test

.PHONY: console-pictures
console-pictures: ## copy what make test-console has seen to docs/images
	.ci/console pictures

.PHONY: openapi-check
openapi-check: need-go ## lint the admin API's OpenAPI document, and compile clients of it (needs Node)
	.ci/openapi-check

.PHONY: nightly
nightly: need-go ## run the long tests: fuzzing, property tests, benchmarks; writes docs/nightly.md
	.ci/nightly
