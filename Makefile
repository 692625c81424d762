# Updraft. Two commands are enough to begin: `make quickstart` and `make test`.
# All that they fetch goes into .updraft/ and target/ in this folder.

STATE := $(CURDIR)/.updraft
DIR   ?= $(CURDIR)/quickstart
BIN   := $(CURDIR)/target/debug/updraft

# Packages that uv fetches; this machine's own cache stays as it is.
export UV_CACHE_DIR ?= $(STATE)/cache/uv

.PHONY: help quickstart build test test-rust test-python test-airflow lint bench docs clean

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

quickstart: build ## From nothing to a project that runs in a real Airflow
	@$(BIN) quickstart --dir "$(DIR)" --data-dir "$(STATE)/quickstart" $(ARGS)

build: ## Build the binary: target/debug/updraft
	@echo "==> building updraft (a first build takes a few minutes)"
	@cargo build --bin updraft

test: ## Run every test, also those that need a real Airflow
	@scripts/test

test-rust: ## Unit tests, and the control plane, agent and command line through their front doors
	@scripts/test rust

test-python: ## airflow-updraft inside real Airflows
	@scripts/test python

test-airflow: ## The whole product with a real Airflow
	@scripts/test airflow

lint: ## Formatting, clippy, Python lints and types
	@scripts/lint

bench: ## Speed, next to what else is installed
	@cargo build --release --bin updraft
	@UPDRAFT_UV=$$(scripts/tools uv) UPDRAFT_IMAGE=$$(scripts/tools image 3.3.2) UPDRAFT_BIN=$(CURDIR)/target/release/updraft cargo run --release -q -p updraft-bench -- $(ARGS)

docs: ## Write the generated references again
	@UPDATE_REFERENCES=1 cargo test -q --workspace reference_ 

clean: ## Remove what was built and fetched here
	rm -rf target .updraft
