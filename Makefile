# Two commands: `make quickstart` and `make test`. Both create .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Extra pip options, for example a mirror, or on Linux PyTorch's own index of CPU builds.
PIP_FLAGS ?=
JOBS ?= 2

.PHONY: quickstart test lint tables clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}; set PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[test]'
	@# Liger asks for Triton (286 MB), which its chunked losses do not use; a comparison with these is all that the tests want of it.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps -c constraints.txt liger-kernel
	@touch $@

quickstart: $(VENV)/.installed
	$(BIN)/zoo run quickstart --device cpu --results .quickstart/results --tables .quickstart/tables

test: $(VENV)/.installed lint
	@# Many tests start the command anew: compiled modules are kept, also where the surroundings say that none are to be written.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"
	$(BIN)/zoo tables --check

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

tables: $(VENV)/.installed
	$(BIN)/zoo tables

clean:
	rm -rf $(VENV) .quickstart build dist
