# The front door. Settings on the command line reach the binaries: make demo POLL_INTERVAL=2s

CARGO ?= cargo
# Without --package, so that cargo unites the same features as for the whole workspace and compiles no dependency twice.
STACK = $(CARGO) run --locked --quiet --bin countersign-stack --

.PHONY: help prepare build demo test test-all chaos observe bench up down check advisories deploy-check openapi fuzz fuzz-api sql-metadata release-fixture

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

prepare: ## Install what building and testing need (asks first; YES=1 does not ask)
	@sh tests/prepare

build: prepare
	$(CARGO) build --locked --workspace --bins

demo: build ## Bring three names to their certificates, on servers of its own, and show every step
	@$(STACK) demo

test: build ## Run all tests; they need Postgres and Pebble, nothing else
	$(CARGO) test --locked --workspace --no-fail-fast

test-all: build ## Also the long ones: the whole crash matrix, long outages, BIND and Knot, fuzz-api (about 30 min)
	@sh tests/prepare all
	$(CARGO) test --locked --workspace --no-fail-fast -- --include-ignored

chaos: build ## Kill and restart everything while orders run; table of what became of each (ORDERS=300; SEED=… repeats a run)
	@$(STACK) chaos

observe: build ## Load on a stack that Prometheus scrapes; an operator's questions, answered by metrics (ORDERS=40 KEEP=1)
	@sh tests/prepare all
	@$(STACK) observe

bench: prepare ## Measure in release mode, beside what others reach; target/bench has the report (SCENARIO=latency,throughput)
	@sh tests/prepare bench
	$(CARGO) build --locked --release --workspace --bins
	@$(CARGO) run --locked --quiet --release --bin countersign-bench

up: build ## Start everything in the background, or what has died of it (API_REPLICAS=2 WORKERS=2 FRESH=1)
	@$(STACK) up

down: ## Stop what `make up` started (FRESH=1 removes its database, too)
	@$(STACK) down

check: ## Formatting, lints, documentation, SQL metadata, and what is built in (deny.toml)
	@sh tests/prepare check
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	$(STACK) sql-metadata --check
	@sh tests/deny bans licenses sources

advisories: ## Ask RustSec's database, on GitHub, whether something is known against a crate that is built in
	@sh tests/prepare check
	@sh tests/deny advisories

deploy-check: ## Lint the Dockerfiles, the compose file and the rendered Kubernetes manifests (needs python3-venv and npm)
	@sh tests/deploy-check

openapi: build ## Rewrite api/openapi.json after a change of a handler or a wire type
	$(CARGO) run --locked --quiet --bin countersign-api -- --print-openapi > api/openapi.json.new
	mv api/openapi.json.new api/openapi.json

fuzz: ## Feed the parser of names, then the name server, with random bytes for a minute each (needs cargo-fuzz)
	$(CARGO) fuzz run --fuzz-dir tests/fuzz --sanitizer none identifier -- -max_total_time=60
	$(CARGO) fuzz run --fuzz-dir tests/fuzz --sanitizer none packet -- -max_total_time=60

fuzz-api: build ## Send both APIs requests that a machine thinks of, for a minute (needs python3-venv)
	@sh tests/prepare all
	$(CARGO) test --locked --package countersign-tests --test system api_fuzz:: -- --ignored --nocapture

release-fixture: build ## At a release: write the rows and statements that the next one is tested against (tests/releases)
	$(STACK) release

sql-metadata: prepare ## Rewrite .sqlx after a change of a query or a migration
	$(STACK) sql-metadata
