# make report                       set-up and the default run; ends in results/report.html
# make report COUNTS=my.h5ad        the analysis of config/analysis.yaml on your own counts
# make report CONFIG=my.yaml        any other configuration; config/heritability.yaml estimates
#                                   known heritabilities
# make plan                         the jobs that make report would run, and how long they took before;
#                                   takes the same COUNTS and CONFIG
# make scenarios CONFIG=my.yaml     the scenarios of a benchmark and its grid, as a sheet
# make calibration                  how often tests are wrong: results/calibration/report.html, and
#                                   docs/calibration.md written anew; half an hour
# make calibration COUNTS=my.h5ad   how often tests are wrong on your own donors:
#                                   results/donors/report.html
# make lock                         constraints.txt: the versions in the environment of make test
# make test | lint                  tests, style and workflow checks
# make site                         site/: the pages of docs/, with notebooks executed anew where they changed
# make dist                         dist/: wheel and archive of sources, checked for publishing
# make bench                        speed and memory, with docs/performance.md written anew; 15 minutes
# make bench QUICK=1                small sizes, 2 minutes; SECTIONS="summarise peers" for some only
# make fuzz                         3,000 random designs against a dense likelihood of other code, and
#                                   docs/reliability.md written anew; an hour, and a killed run goes on.
#                                   DESIGNS=100 for some only
# make million                      a million cells x 20,000 genes, from simulation to tested table;
#                                   FILES=10 reads ten files of them, a model per cell type (29 GB);
#                                   FORMAT=zarr the same numbers from zarr too (as much again)
# make test-slurm                   a run on a Slurm of its own on this machine, against a local one;
#                                   as root, installs Debian's slurm-wlm and munge where missing
#
# PYTHON=python3.12 chooses the interpreter of the environment, CORES=8 the number of jobs at a time,
# LOCKED=1 sets the environment up with the versions of constraints.txt.

SHELL := /bin/bash
PYTHON ?= python3
CORES ?= 2
COUNTS ?=
CONFIG ?= $(if $(COUNTS),config/analysis.yaml,config/config.yaml)
REPORT := results/report.html
VENV := .venv
BIN := $(VENV)/bin
LOCK := $(if $(LOCKED),--constraint constraints.txt)
PIP := $(BIN)/python -m pip
SMK := workflow/Snakefile Snakefile workflow/rules

ifneq ($(words $(CURDIR)),1)
$(error Snakemake cannot start a Python whose path holds a space; move the project from $(CURDIR))
endif

# Where the report of a config lies: one with a name has a folder of its own.
define NAMED
import sys, yaml
name = ((yaml.safe_load(open(sys.argv[1])) or {}).get("report") or {}).get("name")
print(f"results/reports/{name}/report.html" if name else "results/report.html")
endef
export NAMED

# Installs the package with its EXTRAS: by uv, which takes seconds where pip takes minutes, and with pip's
# own index, certificate and constraints; by pip where uv cannot be had or does not succeed.
define INSTALL
@said() { $(PIP) config list | sed -n "s/^[^']*\.$$1='\(.*\)'$$/\1/p" | tail -n 1; }; \
by_uv() { $(PIP) install --quiet --disable-pip-version-check uv && \
  index=$$(said index-url) && cert=$$(said cert) && limits=$$(said constraint) && \
  env $${index:+UV_DEFAULT_INDEX="$$index"} $${cert:+SSL_CERT_FILE="$$cert"} \
    $${limits:+UV_CONSTRAINT="$$limits"} \
    $(BIN)/uv pip install --quiet --python $(BIN)/python $(LOCK) --editable '.[$(EXTRAS)]'; }; \
by_uv || { echo "Without uv the set-up takes some minutes."; \
  $(PIP) install --quiet --disable-pip-version-check $(LOCK) --editable '.[$(EXTRAS)]'; }
endef

# Handed to the recipes through the environment, so that a path may hold spaces and quotes.
export COUNTS CONFIG
# One BLAS thread per process: jobs and tests run side by side.
export OMP_NUM_THREADS = 1
export OPENBLAS_NUM_THREADS = 1
export MKL_NUM_THREADS = 1
# A run is many processes: what one of them has compiled the others take.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help report plan scenarios calibration test test-slurm lock lint site dist bench fuzz million clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^# make/s/^# //p' Makefile

# A config may hold code that Snakemake executes (YTE): it is looked at before Snakemake sees it.
# A killed run leaves Snakemake's lock behind. Ours is the kernel's and ends with the last process of
# a run: whoever holds it, and finds no Snakemake at work in the folder, may clear the other, and goes
# on where the killed run stopped.
report: $(VENV)/.installed
	@$(BIN)/python -m flashmm.workflow.check_config "$$CONFIG"
	@mkdir -p .snakemake; exec 9> .snakemake/make.lock; \
	run() { $(BIN)/snakemake --cores $(CORES) --configfile "$$CONFIG" \
	  $${COUNTS:+--config "counts=[\"$$COUNTS\"]"} "$$@"; }; \
	if command -v flock > /dev/null; then \
	  flock --nonblock 9 || { echo "Another run is at work in $(CURDIR)." >&2; exit 1; }; \
	fi; \
	$(BIN)/python -m flashmm.workflow.running || exit 1; \
	if command -v flock > /dev/null && [ -n "$$(ls .snakemake/locks 2> /dev/null)" ]; then \
	  run --unlock; \
	fi; \
	run
	@echo "Report: $(CURDIR)/$(if $(filter file,$(origin REPORT)),$$($(BIN)/python -c "$$NAMED" "$$CONFIG"),$(REPORT))"

plan: $(VENV)/.installed
	@$(BIN)/python -m flashmm.workflow.check_config "$$CONFIG"
	@$(BIN)/python -m flashmm.workflow.forecast --cores $(CORES) --configfile "$$CONFIG" \
	  $${COUNTS:+--config "counts=[\"$$COUNTS\"]"}

scenarios: $(VENV)/.installed
	@$(BIN)/python -m flashmm.workflow.scenarios "$$CONFIG"

calibration: $(VENV)/.installed
ifneq ($(COUNTS),)
	@$(MAKE) --no-print-directory report \
	  CONFIG=$(if $(filter file,$(origin CONFIG)),config/donors.yaml,$(CONFIG)) \
	  REPORT=results/donors/report.html
else
	@$(MAKE) --no-print-directory report COUNTS= CONFIG=config/calibration.yaml \
	  REPORT=results/calibration/report.html
	@$(BIN)/python benchmarks/calibration.py --docs
endif

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

test-slurm: $(VENV)/.installed-slurm
	tests/slurm/run

lock: $(VENV)/.installed-dev
	$(BIN)/python -m flashmm.workflow.lock > constraints.txt

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check $(SMK)
	$(BIN)/snakemake --lint
	$(BIN)/python docs/notebooks/run.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir "$$(mktemp -d)/site"

site: $(VENV)/.installed-dev
	$(BIN)/python docs/notebooks/run.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Site: $(CURDIR)/site/index.html"

dist: $(VENV)/bin/python
	@$(BIN)/python -m venv $(VENV)/dist # twine and Snakemake want different versions of packaging
	@$(VENV)/dist/bin/python -m pip install --quiet --disable-pip-version-check build twine
	@rm -rf dist
	$(VENV)/dist/bin/python -m build
	$(VENV)/dist/bin/twine check --strict dist/*

bench: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick,$(if $(SECTIONS),,--docs)) $(SECTIONS)

fuzz: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/fuzz.py --jobs $(CORES) $(if $(DESIGNS),--designs $(DESIGNS),--docs)

million: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/million.py --docs $(if $(FILES),--files $(FILES)) $(if $(FORMAT),--format $(FORMAT))

clean:
	rm -rf results logs .snakemake

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "flashmm needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	    "Say which one to use: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: EXTRAS := workflow
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(INSTALL)
	@touch $@

$(VENV)/.installed-dev: EXTRAS := workflow,dev
$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(INSTALL)
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-slurm: EXTRAS := slurm
$(VENV)/.installed-slurm: pyproject.toml | $(VENV)/bin/python
	$(INSTALL)
	@touch $@
