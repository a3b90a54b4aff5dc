# `make` alone lists the targets. Every cargo call of this file has the same profile, packages, features and environment:
# any difference compiles RocksDB again. (Dependencies' features differ with the packages selected, hence --workspace everywhere.
# The tests' dependencies change no feature of the program's; a test, `features`, compares the two.)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# rustup puts cargo here and tells only login shells.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# Outside the checkout, so that RocksDB outlives it.
ifeq ($(strip $(CARGO_TARGET_DIR)),)
CARGO_TARGET_DIR := $(or $(HOME),/var/tmp)/.cache/jangada/target
endif
export CARGO_TARGET_DIR

# The build scripts watch CC and CXX: always the same, whatever the caller's shell has. With ccache a rebuild of RocksDB takes a minute.
ifneq ($(shell command -v ccache),)
export CC := ccache gcc
export CXX := ccache g++
CXX_IS_CACHED := 1
else
unexport CC CXX
endif
# These would replace what .cargo/config.toml sets or change the flags of the C++ compiler.
unexport RUSTC_WRAPPER CARGO_BUILD_RUSTC_WRAPPER RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET CFLAGS CXXFLAGS CPPFLAGS LDFLAGS

BUILD := --release --workspace --locked
JANGADA := $(CARGO_TARGET_DIR)/release/jangada
JANGADA_SIM := $(CARGO_TARGET_DIR)/release/jangada-sim

# Make takes variables from the environment, too, where PORT and DIR are usual and mean something else, and where a FILTER would make
# `make test` run next to nothing and pass. These count only on make's own command line.
given = $(if $(filter command line,$(origin $(1))),$($(1)))
override DIR := $(call given,DIR)
override PORT := $(call given,PORT)
override FILTER := $(call given,FILTER)
override NAME := $(call given,NAME)
override ARGS := $(call given,ARGS)
override SEEDS := $(call given,SEEDS)
override FROM := $(call given,FROM)
override JOBS := $(call given,JOBS)
unexport DIR PORT FILTER NAME ARGS SEEDS FROM JOBS

# The examples of the patterns: a file or a folder each.
EXAMPLES := $(filter-out common,$(basename $(notdir $(wildcard crates/patterns/examples/*))))

# Of the demo cluster: `make up DIR=... PORT=...`.
UP_FLAGS := $(if $(DIR),--dir $(DIR)) $(if $(PORT),--port $(PORT))

.PHONY: help
help: ## List the targets
	@sed -n 's/[$$][$$]/$$/g; s/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

.PHONY: up
up: program ## Install what is missing, build the program, start three nodes on loopback (DIR=jangada-data, PORT=9400)
	@$(JANGADA) up --nodes 3 --detach $(UP_FLAGS)

.PHONY: down
down: ## Stop the nodes that `make up` started (DIR=)
	@test -x $(JANGADA) || { echo 'nothing was built, so nothing runs' >&2; exit 1; }
	@$(JANGADA) down $(if $(DIR),--dir $(DIR))

.PHONY: program
program: prepare ## Build the program alone
	@.ci/build $(BUILD) --bin jangada

.PHONY: build
build: prepare ## Build everything: the program, and the tests
	@.ci/build $(BUILD) --all-targets

.PHONY: test
test: build ## Install what is missing, build, run all tests (FILTER=topic: of the tests from outside, that topic)
ifneq ($(FILTER),)
	cargo test $(BUILD) --test suite -- $(FILTER)
else
	cargo test $(BUILD) --no-fail-fast
endif

.PHONY: simulate
simulate: prepare ## Play scenarios in the simulator (SEEDS=1000 FROM=1 JOBS=2 ARGS='--rocksdb'; one seed: ARGS='--seed 7 --notes')
	@.ci/build $(BUILD) --bin jangada-sim
	@$(JANGADA_SIM) $(if $(findstring --seed ,$(ARGS)),,--seeds $(or $(SEEDS),1000) --from $(or $(FROM),1) --jobs $(or $(JOBS),2)) $(ARGS)

.PHONY: planted
planted: prepare ## Plant each known bug in turn and play scenarios until it is found (SEEDS=500 each, JOBS=2)
	@.ci/build $(BUILD) --features jangada-simulator/planted --bin jangada-sim
	@$(JANGADA_SIM) --planted all --seeds $(or $(SEEDS),500) --jobs $(or $(JOBS),2) $(ARGS)

.PHONY: set-aside
set-aside: build ## Run the tests that do not run otherwise: set aside, or printing figures; the reason of each stands at it
	cargo test $(BUILD) --no-fail-fast -- --ignored --nocapture

.PHONY: examples
examples: build ## Run the examples of other languages (needs python3, node with npm, go 1.24 or later, protoc, and their registries)
	JANGADA_EXAMPLES=1 cargo test $(BUILD) --test suite -- cluster::examples::

.PHONY: example
example: prepare ## Run an example of the patterns against the cluster of `make up` (NAME=payments ARGS='--nemesis 15'; docs/patterns)
	@test -n '$(NAME)' || { echo 'which one? NAME= one of: $(EXAMPLES)' >&2; exit 2; }
	@.ci/build $(BUILD) --example $(NAME)
	@$(CARGO_TARGET_DIR)/release/examples/$(NAME) --brokers 127.0.0.1:$(or $(PORT),9400) $(ARGS)

.PHONY: alerts
alerts: build ## Check the alert rules and a real scrape with promtool (from Debian's package prometheus)
	JANGADA_ALERTS=1 cargo test $(BUILD) --test suite -- cluster::monitoring::

.PHONY: verify
verify: ## Read-only checks: format, lints, the contract's compatibility, tidiness
	@.ci/prepare lint
	cargo fmt --all --check
	cargo clippy $(BUILD) --all-targets -- -D warnings
	cargo test $(BUILD) --test suite -- contract:: language:: layers:: tidy::

.PHONY: fix
fix: ## Mend the format
	cargo fmt --all

.PHONY: env
env: ## Print what to export before calling cargo by hand: eval "$$(make env)"
	@printf 'export CARGO_TARGET_DIR=%q\n' '$(CARGO_TARGET_DIR)'
ifdef CXX_IS_CACHED
	@printf 'export CC=%q CXX=%q\n' '$(CC)' '$(CXX)'
else
	@printf 'unset CC CXX\n'
endif
	@printf 'unset RUSTC_WRAPPER CARGO_BUILD_RUSTC_WRAPPER RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET CFLAGS CXXFLAGS CPPFLAGS LDFLAGS\n'

.PHONY: prepare
prepare: ## Check the machine, and install with apt-get what the build needs
	@.ci/prepare
