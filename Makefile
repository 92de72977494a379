# The same verbs by hand and in CI. `make help` lists them.
.DEFAULT_GOAL := help
CARGO ?= cargo

.PHONY: help run up down check fmt lint test test-replicas doc bench dry-run chart-docs papers image

help: ## Lists the verbs.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

run: ## Starts the platform in this folder, on the embedded engines.
	$(CARGO) run --release

up: ## Starts PostgreSQL, Kafka, Redis and OPA on loopback; installs what is missing.
	scripts/servers.sh up

down: ## Stops them and removes their data.
	scripts/servers.sh down

check: fmt-check lint doc ## Everything that needs no test run: format, lints, docs.

fmt: ## Formats the code.
	$(CARGO) fmt --all

fmt-check:
	$(CARGO) fmt --all -- --check

lint: ## Runs clippy on everything; a warning is an error.
	$(CARGO) clippy --workspace --all-targets --features cluster-platform --locked -- -D warnings

test: ## Runs the tests on the embedded engines and on real servers, then the dry run of the plan.
	scripts/servers.sh during $(CARGO) test --workspace --locked --features cluster-tests
	$(MAKE) dry-run

test-replicas: ## Runs the black-box scenarios and the chaos list on two replicas and real servers.
	scripts/servers.sh during $(CARGO) test -p somaagent --locked --features cluster-platform --test it -- cluster:: chaos::

dry-run: ## Checks configuration, plan, store, policy and ports without changing anything.
	SA01_DATA_DIR=$$(mktemp -d)/data $(CARGO) run --locked --quiet -- run --dry-run

doc: ## Builds the API documentation; a broken link is an error.
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

bench: ## Measures; prints each figure beside the limit measured in the same run.
	$(CARGO) bench --workspace --locked

chart-docs: ## Writes the chart's README from the comments of its values.
	scripts/chart-docs.sh

papers: ## Writes the bill of materials (CycloneDX) and the licence notices to target/papers.
	scripts/papers.sh

image: ## Builds the image, from these sources the same each time.
	docker build -f docker/Dockerfile --build-arg SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
	  -t somaagent/somaagent:$$(awk -F '"' '/^appVersion/ {print $$2}' charts/somaagent/Chart.yaml) .
