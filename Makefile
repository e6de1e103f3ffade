# The developer's commands, on a laptop and in CI. `make` lists the targets. Each target sets up what it needs.

PYTHON ?= python3
IMAGE ?= convserve
DOCKER ?= docker
ARGS ?=

# ONNX Runtime's wheels send usage data to Microsoft since 1.29 unless this is disabled.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  variables: PYTHON=python3.12 (3.11 or newer)  ARGS="more arguments for serve or pytest"  IMAGE=tag  DOCKER=podman'

# Each environment has a stamp file. pip runs again only if pyproject.toml is newer than the stamp.
.venv/.installed: extras := cpu,fast,otel,export,dev
.venv-serve/.installed: extras := cpu,fast
%/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo 'make: no $(PYTHON) here; convserve needs Python 3.11 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make: convserve needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'make: $(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv' >&2; exit 1; }
	test -x $*/bin/pip || $(PYTHON) -m venv $*
	$*/bin/pip install --quiet --disable-pip-version-check --editable '.[$(extras)]'
	@touch $@

.PHONY: install demo serve test lint type format proto lock image clean

install: .venv/.installed ## create .venv with everything for the tests, including torch (about 5 GB)

demo: .venv-serve/.installed ## serve the bundled models, classify the bundled pictures and sentences, stop
	examples/demo.sh

serve: .venv-serve/.installed ## serve the bundled models until Ctrl-C, gRPC on 8001 and HTTP on 8002
	.venv-serve/bin/convserve serve --models models --log-format text $(ARGS)

test: .venv/.installed ## run all tests except those that need the image or a GPU
	.venv/bin/pytest $(ARGS)

lint: .venv/.installed ## check ruff, hadolint, import layers and generated stubs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/hadolint Dockerfile
	.venv/bin/lint-imports
	PYTHON=$(PYTHON) scripts/proto.sh --check

type: .venv/.installed ## run mypy in strict mode
	.venv/bin/mypy

format: .venv/.installed ## format and fix what ruff can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

proto: ## generate service/pb from proto/
	PYTHON=$(PYTHON) scripts/proto.sh

lock: ## renew requirements/*.txt, the image's packages by version and hash
	PYTHON=$(PYTHON) scripts/lock.sh

image: ## build the CPU image; DOCKER=podman works too
	@command -v $(DOCKER) >/dev/null || { echo 'make: no $(DOCKER) here; install it, or name another: make image DOCKER=podman' >&2; exit 1; }
	$(DOCKER) build --tag $(IMAGE) .

clean: ## remove environments and caches
	rm -rf .venv .venv-serve .venv-proto .venv-lock .*_cache .hypothesis .coverage *.egg-info build dist
