# make demo    optimize a real model and print the report
# make test    run the tests (slow ones: scripts/test -m slow)
# make check   lint, formatting, types
# make setup   the virtual environment alone; PYTHON= and VENV= choose interpreter and folder
# make format  let ruff repair what it can
# make pins    write constraints.txt anew, with the newest versions that pyproject.toml allows

ifndef PYTHON
PYTHON := $(shell python3.11 -V >/dev/null 2>&1 && echo python3.11 || echo python3)
endif
VENV ?= .venv
export VENV
export PIP_DISABLE_PIP_VERSION_CHECK := 1

CONSTRAINTS ?= constraints.txt
EXTRAS ?= dev
# Build isolation would fetch a setuptools that no constraint pins; the venv's own is pinned.
INSTALL := $(VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS)
BUILD := --no-build-isolation --editable
PINS := pyproject.toml constraints.txt requirements-zoo.txt Makefile

.PHONY: demo test check format setup pins clean

demo: $(VENV)/.run-stamp
	scripts/demo

test: setup
	scripts/test -n 2

check: setup
	scripts/check

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

setup: $(VENV)/.dev-stamp

# What a user of the command needs, and the models.
$(VENV)/.run-stamp: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "planish needs Python 3.11 or newer: make PYTHON=...")'
	@echo "setting up $(VENV) with $(PYTHON)"
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) --upgrade setuptools
	$(INSTALL) $(BUILD) '.[zoo]'
	$(INSTALL) --no-deps --ignore-requires-python --requirement requirements-zoo.txt
	@touch $@

# What its developers need besides.
$(VENV)/.dev-stamp: $(VENV)/.run-stamp
	$(INSTALL) $(BUILD) '.[$(EXTRAS)]'
	@touch $@

pins:
	rm -rf build/pins
	$(MAKE) setup VENV=build/pins CONSTRAINTS=/dev/null EXTRAS=dev,tvm,cross,bench,fuzz
	sed -n '/^#/p' constraints.txt > build/constraints.txt
	build/pins/bin/python -m pip freeze --all | grep -v -e '^[#-]' -e '^pip==' -e ' @ ' >> build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf $(VENV) .typing build dist planish.egg-info demo-out .pytest_cache .ruff_cache .hypothesis
