# Everything a newcomer needs. `make up` and `make test` prepare the machine themselves: see deploy/prepare.
SHELL := /bin/bash
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
UV ?= uv
export PYTHON

.PHONY: help up down test test-v2 lint fmt bench docs lock schema

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

up: ## prepare this machine and start everything (Ctrl-C ends it, containers go on)
	@deploy/prepare run
	@exec $(BIN)/wharf up

down: ## stop everything on this machine, containers included
	@test -x $(BIN)/wharf || { echo "Nothing was ever started from this clone."; exit 0; }; exec $(BIN)/wharf down

test: ## prepare this machine and run every check and test
	@deploy/prepare test
	@exec tests/run

test-v2: ## the runtime's tests in a guest kernel with cgroup v2 alone and criu (ARGS="pytest arguments")
	@deploy/prepare guest
	@exec nice $(BIN)/python -m tests.guest $(ARGS)

lint: ## ruff, import contracts, types
	@deploy/prepare test
	@exec tests/run lint

fmt: ## format the code
	@deploy/prepare test
	@$(BIN)/ruff check --fix-only -q . ; $(BIN)/ruff format .

bench: ## measure against installed peers and print a table (ROOMS="runtime registry", JSON=file)
	@deploy/prepare bench
	@exec $(BIN)/python -m tests.bench.run $(ROOMS) $(if $(JSON),--json $(JSON))

docs: ## list the documents
	@ls docs/*.md docs/*/*.md

lock: ## pin the dependencies (UPGRADE=1: their newest versions)
	$(UV) pip compile -q $(if $(UPGRADE),--upgrade) pyproject.toml deploy/build.in --extra server --extra agent --extra embedded --extra s3 \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.lock
	$(UV) pip compile -q $(if $(UPGRADE),--upgrade) pyproject.toml deploy/build.in --extra server --extra agent --extra embedded --extra s3 --extra dev \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements.lock -o requirements-dev.lock

schema: ## write docs/openapi.yaml from the code
	@deploy/prepare test
	@$(BIN)/python manage.py spectacular --validate --fail-on-warn --file docs/openapi.yaml
