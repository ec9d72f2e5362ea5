# `make test` and `make demo` set everything up on a machine with Python and no GPU.
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
BIN = $(VENV)/bin

# Else each program of the tests compiles all that it imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup test test-all demo bench-speed bench-quality teacher stress longrun docs lint clean

setup: $(VENV)/installed

# Not compiled: half of the time, and what is imported is compiled then.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[test,data]'
	touch $@

# Two workers of one thread each: the models are too small for more.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# With those marked slow: whole commands, kills, several processes.
test-all: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

demo: setup
	$(BIN)/mdlm-mcd demo --out $(OUT)

# Steps, samples and their growth, in ratios. ARGS="--hosts CLONES": beside the hosts' own.
bench-speed: setup
	$(BIN)/python benchmarks/speed.py --out bench-speed $(ARGS)

# Two hours and more of two cores; goes on where it stopped. ARGS=--quick: a part (docs/quality.md).
bench-quality: setup
	$(BIN)/python benchmarks/quality.py $(ARGS)

# A teacher and its judge on the prose of installed packages, into teacher/assets: three hours.
# Goes on where it stopped.
teacher: setup
	$(BIN)/python benchmarks/teacher.py $(ARGS)

# A run killed 54 times; four minutes on two cores. ARGS="--kills 24 --devices 2".
stress: setup
	$(BIN)/python benchmarks/stress.py $(ARGS)

# Memory, tensors, open files and logs over 2,400 steps: a few minutes.
longrun: setup
	$(BIN)/python benchmarks/longrun.py

# The site, into site/: any warning of a link or a page is an error.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) dist build site
