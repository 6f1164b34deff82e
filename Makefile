# `make help` lists the verbs. Each is one `dofbot` verb or one tool, run from .venv; options go in ARGS:
#     make train ARGS='--seed 3'
PYTHON ?= python3
ARGS ?=
ARCH ?= aarch64
export HOST ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install -c requirements/constraints.txt
PINS := pyproject.toml requirements/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test hil hil-systemd hil-arm64 check coverage security mutants gate-soak train export eval bench bundle deploy clean

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.sim ## Run the whole pipeline on a simulated arm, no hardware needed
	$(BIN)/dofbot demo $(ARGS)

test: $(VENV)/.dev ## Run the tests
	$(BIN)/pytest $(ARGS)

hil: $(VENV)/.dev ## Break everything that can break while the simulated arm moves, and renew docs/faults.md; 10 minutes
	HIL_REPORT=1 $(BIN)/pytest tests/hil -m 'hil or not hil' -rs $(ARGS)

hil-systemd: $(VENV)/.dev ## Start, stop, kill and freeze the service under a real systemd; needs root and systemd-nspawn
	$(BIN)/pytest tests/systemd -m systemd -rs $(ARGS)

hil-arm64: $(VENV)/.dev ## Install the bundle on an emulated Raspberry Pi, and grasp; needs root, debootstrap and qemu-user-static
	$(BIN)/pytest tests/arm64 -m arm64 -rs $(ARGS)

check: $(VENV)/.dev ## Lint, check the formatting, check the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@$(MAKE) --no-print-directory security

security: ## Rate the service's sandbox, where systemd-analyze is; at most 2.0 of 10
	@if command -v systemd-analyze >/dev/null; then \
		rating="$$(systemd-analyze security --offline=true --threshold=20 --no-pager firmware_tools/dofbot-grasp.service)" \
			|| { echo "$$rating"; exit 1; }; \
		echo "$$rating" | tail -n 1; \
	else echo 'make security: skipped, systemd-analyze is not installed'; fi

coverage: $(VENV)/.dev ## Check that its tests take every branch of the safety gate
	$(BIN)/coverage run -m pytest -q tests/edge/test_safety.py $(ARGS)
	$(BIN)/coverage report

mutants: $(VENV)/.dev ## Break the safety gate in every small way, one at a time, and see its tests notice
	$(BIN)/python tests/mutation/safety.py $(ARGS)

gate-soak: $(VENV)/.dev ## Send a million hostile commands through the safety gate
	GATE_STEPS=1000000 $(BIN)/pytest -q -s tests/edge/test_safety_soak.py $(ARGS)

train: $(VENV)/.dev ## Train a policy
	$(BIN)/dofbot train $(ARGS)

export: $(VENV)/.dev ## Write a trained policy as one .onnx file with its contract
	$(BIN)/dofbot export $(ARGS)

eval: $(VENV)/.sim ## Measure a policy's success rate in simulation
	$(BIN)/dofbot eval $(ARGS)

bench: $(VENV)/.dev ## Measure speed and accuracy against the numbers to beat
	PYTHONPATH=. $(BIN)/python tests/bench/run.py $(ARGS)

bundle: $(VENV)/.dev ## Pack everything a robot needs into one file in dist/; ARCH=x86_64 for a PC
	$(BIN)/dofbot bundle --arch $(ARCH) $(ARGS)

deploy: $(VENV)/.dev ## Install that on a robot over ssh, and go back by itself if it does not come up: HOST=pi@dofbot.local
	@test -n "$$HOST" || { echo 'make: which robot? make deploy HOST=pi@dofbot.local'; exit 1; }
	@$(MAKE) --no-print-directory bundle ARGS=
	$(BIN)/dofbot deploy "$$HOST" dist/dofbot-grasp-$$($(BIN)/dofbot --version | cut -d ' ' -f 2)-$(ARCH).tar.zst $(ARGS)

clean: ## Remove .venv, caches and build output
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: what is installed already, so that a second call starts at once.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "make: $(PYTHON) is not on the PATH; install Python 3.11 or newer, or name yours: make PYTHON=/path/to/python <verb>"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), but 3.11 or newer is needed; name another: make PYTHON=python3.11 <verb>"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot create virtual environments; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.sim: $(VENV)/.made $(PINS)
	$(INSTALL) -e '.[sim]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made $(PINS)
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.sim $@
