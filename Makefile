# Tributary. `make` lists what there is. Everything a target fetches or makes goes to bin/ and .build/ (not committed) and
# to ~/.cache/tributary (shared by all clones); a second run finds it there and needs no network.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL: # the order of the steps of `test` matters, and Go uses all cores by itself

# PKG narrows test, test-race, lint and fuzz: make test-race PKG=./collector/...
PKG ?= ./...
FUZZTIME ?= 10s
BENCH ?= collector
BENCH_ARGS ?=
SOAK_MINUTES ?= 60

GO ?= go
TOOLS := tools.mod
PLUGINS := .build/bin/protoc-gen-go .build/bin/protoc-gen-go-grpc
LINT := $(GO) tool -modfile=$(TOOLS) golangci-lint

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -X tributary/service/build.version=$(VERSION) -X tributary/service/build.revision=$(REVISION)
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build both programs into bin/
	$(GOBUILD) -o bin/tributary-exporter ./exporter
	$(GOBUILD) -o bin/tributary-collector ./collector

.PHONY: engine
engine: ## fetch the embedded ClickHouse engine into bin/
	@deploy/dev/fetch-engine.sh bin/libchdb.so

.PHONY: packages
packages: ## install the Debian packages of `make test` that are missing
	@deploy/dev/packages.sh test

.PHONY: test-kernels
test-kernels: ## run the capture tests on Debian's own kernels under qemu (KERNELS="linux-image-… …" for others)
	@deploy/dev/packages.sh kernels
	deploy/dev/kernels.sh .build/kernels $(KERNELS)

.PHONY: test-clocks
# Not a part of `test`: emulated, it takes a minute and a half.
test-clocks: build engine ## set the clock of a virtual machine in which the exporter captures, by hours and days
	@deploy/dev/packages.sh kernels
	deploy/dev/clocks.sh .build/clocks bin/tributary-exporter
	TRIBUTARY_CLOCKS_MACHINE=$(CURDIR)/.build/clocks $(GO) test -count 1 -timeout 5m -v ./deploy/world/clocks

.PHONY: test-kubernetes
# Not a part of `test`: the server takes five minutes of processor time to build, once a machine.
test-kubernetes: ## the tests against a real Kubernetes API server, which it builds (no root, but for missing packages)
	@deploy/dev/packages.sh kubernetes
	@server=$$(deploy/dev/kubernetes.sh); set -x; \
	CGO_ENABLED=1 TRIBUTARY_KUBE_APISERVER=$$server $(GO) test -race -p 1 -count 1 -timeout 10m -run Kubernetes ./deploy/dev/kubernetestest ./exporter/containers ./exporter/app ./collector/ownership/assignment ./collector/app

.PHONY: kafka
kafka: .build/kafka.stamp ## fetch the jars of the Kafka that the tests use

# A start and a stop fetch everything, and prove that the broker works before a test waits for it.
.build/kafka.stamp: deploy/dev/kafka.sh deploy/dev/kafka/pom.xml
	@mkdir -p .build
	deploy/dev/kafka.sh prepare .build/kafka
	@rm -rf .build/kafka && touch $@

.PHONY: generate
generate: $(PLUGINS) ## write the generated code anew (needs protoc, clang-14 and llvm-14)
	@deploy/dev/packages.sh generate
	PATH="$(CURDIR)/.build/bin:$$PATH" $(GO) generate ./...

.PHONY: check-generated
check-generated: $(PLUGINS) ## generate in a copy of the tree and compare
	@deploy/dev/packages.sh generate
	@copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	skip=(--exclude=.git --exclude=.build --exclude=.demo --exclude=./bin); \
	tar -cf - "$${skip[@]}" . | tar -xf - -C "$$copy"; \
	cp -r "$$copy" "$$copy.before"; trap 'rm -rf "$$copy" "$$copy.before"' EXIT; \
	(cd "$$copy" && PATH="$(CURDIR)/.build/bin:$$PATH" $(GO) generate ./...); \
	diff -rq "$$copy.before" "$$copy" || { echo "generated files are not what their sources make: run make generate" >&2; exit 1; }; \
	echo "generated files are what their sources make"

.build/bin/protoc-gen-go: tools.mod tools.sum
	@mkdir -p $(@D)
	$(GO) build -modfile=$(TOOLS) -o $@ google.golang.org/protobuf/cmd/protoc-gen-go

.build/bin/protoc-gen-go-grpc: tools.mod tools.sum
	@mkdir -p $(@D)
	$(GO) build -modfile=$(TOOLS) -o $@ google.golang.org/grpc/cmd/protoc-gen-go-grpc

.PHONY: fmt
fmt: ## format the Go code
	$(LINT) fmt

.PHONY: lint
lint: vet ## golangci-lint, with the import rules of the design
	$(LINT) run $(PKG)

.PHONY: vet
vet: ## go vet
	$(GO) vet $(PKG)

.PHONY: test
test: packages engine kafka build check-generated lint test-race ## everything, with all it needs; as root nothing is skipped

.PHONY: test-race
# One package at a time: several watch every connection of the host, and would see those of the others.
test-race: ## the Go tests alone, under the race detector
	CGO_ENABLED=1 $(GO) test -race -p 1 -timeout 60m $(PKG)

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	@$(GO) list -f '{{.Dir}}' $(PKG) | while read -r dir; do \
		for target in $$(cat "$$dir"/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p'); do \
			echo "$$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzzminimizetime=10x -fuzztime $(FUZZTIME) "$$dir"; \
		done; \
	done

.PHONY: bench
bench: build engine ## the benchmark BENCH with BENCH_ARGS: make bench BENCH=collector
	$(GOBUILD) -o .build/bin/bench-$(BENCH) ./benchmarks/$(BENCH)
	exec .build/bin/bench-$(BENCH) $(BENCH_ARGS)

.PHONY: soak
soak: build engine ## a steady load for SOAK_MINUTES (60): memory and descriptors stay, the books balance (root)
	$(GOBUILD) -o .build/bin/soak ./benchmarks/soak
	exec .build/bin/soak -minutes $(SOAK_MINUTES)

.PHONY: bench-paths
bench-paths: packages build engine ## paths that break and paths that only look so, ten times with each kind of client (root, an hour and a half)
	failed=0; for clients in short kernel; do \
		$(GO) test ./deploy/world/e2e -run '^TestPaths$$' -v -count 10 -timeout 2h -args -paths.timings default -paths.clients $$clients || failed=1; \
	done; exit $$failed

.PHONY: demo
demo: build engine bin/tributary-demo ## a small world on this host and its dependency map (root)
	@deploy/dev/packages.sh demo
	@exec bin/tributary-demo

.PHONY: run
run: build engine bin/tributary-demo ## the map of this host's own connections (root)
	@exec bin/tributary-demo --host

.PHONY: bin/tributary-demo
bin/tributary-demo:
	$(GOBUILD) -o $@ ./deploy/world/demo

.PHONY: clean
clean: ## remove bin/ and .build/
	rm -rf bin .build
