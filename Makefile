# The verbs of this project; `make help` lists them.
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools
AGENTS := .agents
GRPCURL_VERSION := v1.9.4
STAMP := $(VENV)/.stamp
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check proto bench faults agents tools format clean

help: ## list the verbs
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with orch-server, orch-client and all that they need

$(STAMP): pyproject.toml constraints.txt scripts/setup
	@scripts/setup $(VENV)
	@touch $@

run: setup ## start the server (all set-up done first); prints what to type next
	@scripts/run

demo: setup ## a server and three agents in tmux, at work before your eyes
	@scripts/demo

test: setup ## all tests; real tmux, grpcurl where Go can build it, real agents after `make agents`
	@scripts/tools $(TOOLS) $(GRPCURL_VERSION)
	@scripts/test $(BIN)/python

check: setup ## format, lint, types, imports, proto: what must hold before a commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache >.lint-imports.log || { cat .lint-imports.log; exit 1; }
	@rm -f .lint-imports.log
	@scripts/check-proto
	@scripts/check-house

proto: setup ## generate generated/ from proto/
	@scripts/generate-proto generated

bench: setup ## performance beside a bare baseline; after `make agents` also of the real Claude Code
	@$(BIN)/python -m bench
	@$(BIN)/python -m tests.agents.measure

faults: setup ## 10,000 deliveries, thousands of tasks, 1,000 gates, while all is killed or broken
	@$(BIN)/python -m tests.faults

agents: ## the real agents that tests drive: Claude Code and Codex (npm, 500 MB)
	@scripts/agents $(AGENTS)

tools: ## the tools that only tests need: grpcurl
	@scripts/tools $(TOOLS) $(GRPCURL_VERSION)

format: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the verbs above made
	rm -rf $(VENV) $(TOOLS) $(AGENTS) .mypy_cache .ruff_cache .pytest_cache .hypothesis
