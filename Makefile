.POSIX:
.SUFFIXES:

GO = go
VERSION != git describe --tags --always --dirty 2>/dev/null || echo devel
FUZZTIME = 30s
ROWS = quick
N = 10000
SEED = 0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## build bin/worker
	$(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/worker ./cmd/worker

.PHONY: test
test: ## run the tests
	$(GO) test ./...

.PHONY: race
race: ## run the tests with the race detector
	$(GO) test -race ./...

.PHONY: cover
cover: ## run the tests and write coverage.html
	$(GO) test -coverpkg=./internal/...,./cmd/worker/... -coverprofile=coverage.out ./...
	$(GO) tool cover -html=coverage.out -o coverage.html
	$(GO) tool cover -func=coverage.out | tail -n 1

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	tools/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: ## measure the worker against its floors (ROWS: quick, all, or names)
	$(GO) run ./cmd/sandbox bench --rows $(ROWS)

.PHONY: sandbox
sandbox: ## play a day of requests against a simulated Graph
	$(GO) run ./cmd/sandbox

.PHONY: chaos
chaos: ## kill, freeze and cut off workers and NATS under load (N requests, SEED)
	$(GO) run ./cmd/sandbox chaos --n $(N) --seed $(SEED) --limit 30m
	$(GO) run ./cmd/sandbox chaos --cluster --n $$(($(N) / 5)) --rate 30 --seed $(SEED) --limit 15m
	PASSCODE_TEST_LONG=1 $(GO) test -count=1 -run TestOutageOverRestarts ./cmd/worker

.PHONY: soak
soak: ## see whether a worker process grows in five minutes of load
	$(GO) run ./cmd/sandbox soak

.PHONY: lint
lint: bin/golangci-lint ## check the style and the direction of imports
	bin/golangci-lint run ./...

.PHONY: vuln
vuln: bin/govulncheck ## look for known vulnerabilities (needs the network)
	bin/govulncheck ./...

.PHONY: tidy-check
tidy-check: ## check that go.mod and go.sum are tidy
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff
	cd tools/deploy && $(GO) mod tidy -diff
	cd tools/nats && $(GO) mod tidy -diff

# Static binaries with a version in them, for each a list of what is in it
# (CycloneDX), and checksums.
PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64

.PHONY: dist
dist: bin/cyclonedx-gomod ## build the release into dist
	rm -rf dist && mkdir -p dist
	set -e; for p in $(PLATFORMS); do \
		os=$${p%/*} arch=$${p#*/}; ext=; [ $$os != windows ] || ext=.exe; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -buildvcs=auto \
			-ldflags "-s -w -X main.version=$(VERSION)" -o dist/worker_$${os}_$$arch$$ext ./cmd/worker; \
	done
	set -e; for b in dist/worker_*; do \
		bin/cyclonedx-gomod bin -json -std -licenses -version $(VERSION) -output $$b.cdx.json $$b; \
	done
	cd dist && sha256sum * > SHA256SUMS

.PHONY: rules
rules: ## make the PrometheusRule for Kubernetes from the rules file
	$(GO) test ./deploy -run TestPrometheusRuleIsTheRulesFile -update

.PHONY: deploy-test
deploy-test: bin/kustomize ## check deploy/ with the real tools, also what takes minutes
	DEPLOY_SLOW=1 DEPLOY_REQUIRE_TOOLS=1 $(GO) test -v -run 'Faults|Dockerfile|Overlays|Rules|Metrics|Compose' ./deploy

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist coverage.out coverage.html

# The development tools are a module of their own, so that the program's go.mod
# names only what the program needs.
bin/golangci-lint: tools/go.mod tools/go.sum
	$(GO) build -C tools -o ../bin/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

bin/govulncheck: tools/go.mod tools/go.sum
	$(GO) build -C tools -o ../bin/ golang.org/x/vuln/cmd/govulncheck
	@touch $@

bin/kustomize: tools/deploy/go.mod tools/deploy/go.sum
	$(GO) build -C tools/deploy -o ../../bin/ sigs.k8s.io/kustomize/kustomize/v5
	@touch $@

bin/cyclonedx-gomod: tools/deploy/go.mod tools/deploy/go.sum
	$(GO) build -C tools/deploy -o ../../bin/ github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
	@touch $@
