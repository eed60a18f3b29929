SHELL   = bash
PYTHON ?= python3
WORKERS ?= 2
VENV    = .venv
BENCH   = .venv-bench
BIN     = $(VENV)/bin
THREADS = $(shell $(PYTHON) -c 'import os; print(min(8, os.cpu_count() or 1))')

# pip's many lines become dots; its errors are shown as they are.
DOTS = awk '/^ *(Collecting|Downloading)/ {printf "."; fflush()} \
	/^Installing collected/ {printf "\nunpacking (the longest part) ... "; fflush()} /^Successfully installed/ {print "done"}'
INSTALL = set -o pipefail; PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install

.DEFAULT_GOAL = help
.PHONY: help study explore studies results test bench check export readme clean-notebooks docs wheel

help:
	@echo 'make study            install, run the default study, write the report to runs/default/report.html'
	@echo 'make explore          install the explore extra and open what RUN=runs/default holds in the browser'
	@echo 'make studies          run the small studies of all the paper'\''s sections (about three hours on 2 cores; goes on where it stopped) and their notebooks'
	@echo 'make results          write nbs/studies/agreement.csv, the paper beside the stored results, and kd_knowledge/study/spreads.csv'
	@echo 'make test             install with the development extra, then every check, notebook and test'
	@echo 'make bench            measure speed and memory beside other libraries (less than half an hour), in $(BENCH); BENCHMARKS="--only crd 6" chooses,'
	@echo '                      REPDISTILLER=... and DBVIZ=... name clones of github.com/HobbitLong/RepDistiller and github.com/somepago/dbViz'
	@echo 'make check            are the package and the notebooks in step, and are the notebooks clean?'
	@echo 'make export           write kd_knowledge/ from nbs/'
	@echo 'make readme           write README.md from nbs/index.ipynb'
	@echo 'make clean-notebooks  strip what does not belong into a commit from nbs/'
	@echo 'make docs             write the site to _docs/, with Quarto where it is installed; DOCS=--check builds it twice and compares'
	@echo 'make wheel            write the wheel to dist/'
	@echo
	@echo 'PYTHON=python3.13 chooses the Python that $(VENV) is made with, WORKERS=4 how many notebooks are tested at once.'

study: $(VENV)/.installed
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} $(BIN)/kd_study

explore: $(VENV)/.installed-explore
	@$(BIN)/kd_explore $${RUN:-runs/default}

studies: $(VENV)/.installed-dev
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} $(BIN)/python -W ignore .ci/studies $(STUDIES)
	@$(MAKE) --no-print-directory results
	@$(BIN)/python -W ignore .ci/execute nbs/studies/*.ipynb

results: $(VENV)/.installed
	@$(BIN)/kd_results --spreads kd_knowledge/study/spreads.csv

test: check
	@echo 'Notebooks:'
	@OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers $(WORKERS) --timing
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST) tests

bench: $(BENCH)/.installed-bench
	@$(BENCH)/bin/python tests/benchmarks/run.py $(BENCHMARKS)

check: $(VENV)/.installed-dev
	@.ci/check $(BIN)
	@.ci/readme --check

export: $(VENV)/.installed-dev
	@$(BIN)/nbdev_export

readme:
	@.ci/readme

clean-notebooks: $(VENV)/.installed-dev
	@$(BIN)/nbdev_clean

docs: $(VENV)/.installed-dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python .ci/docs $(DOCS)

wheel: $(VENV)/.installed-dev
	@rm -rf build
	@$(BIN)/python -m build --wheel --no-isolation

$(BIN)/pip:
	@echo 'Making $(VENV)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: settings.ini setup.py | $(BIN)/pip
	@echo 'Installing kd_knowledge into $(VENV): PyTorch alone is some GB, so the first time takes minutes'
	@$(INSTALL) -e . | $(DOTS)
	@touch $@

$(VENV)/.installed-explore: settings.ini setup.py | $(BIN)/pip
	@echo 'Installing kd_knowledge and Voila into $(VENV): PyTorch alone is some GB, so the first time takes minutes'
	@$(INSTALL) -e '.[explore]' | $(DOTS)
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: settings.ini setup.py | $(BIN)/pip
	@echo 'Installing kd_knowledge and its development tools into $(VENV): PyTorch alone is some GB, so the first time takes minutes'
	@$(INSTALL) -e '.[dev]' | $(DOTS)
	@touch $@ $(VENV)/.installed

# torchattacks wants a requests of 2020, which would take the development extra's Jupyter back to one of its time: the peers get an environment of their own.
ifneq ($(VENV),$(BENCH))
$(BENCH)/.installed-bench: settings.ini setup.py
	@$(MAKE) --no-print-directory VENV=$(BENCH) $@
else
$(BENCH)/.installed-bench: settings.ini setup.py | $(BIN)/pip
	@echo 'Installing kd_knowledge and the libraries it is measured beside into $(BENCH): PyTorch alone is some GB, so the first time takes minutes'
	@$(INSTALL) -e '.[bench]' | $(DOTS)
	@touch $@
endif
