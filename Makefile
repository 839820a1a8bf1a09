# make book   one environment, every chapter executed, the site in _build/html
# make test   everything that must hold; see the README for the commands behind both
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
EXTRAS := book,test,deploy
SHELL := /bin/bash

export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
export PYTHONHASHSEED := 0
export NNOPT_DEVICE ?= cpu
ifneq ($(strip $(NNOPT_DATA)),)
export NNOPT_DATA := $(abspath $(NNOPT_DATA))
endif

.PHONY: book test check pilot reseed bench clean published
.DEFAULT_GOAL := book

published:
	@test "$${NNOPT_SEED_OFFSET:-0}" = 0 || { echo "NNOPT_SEED_OFFSET must be 0 here, got $$NNOPT_SEED_OFFSET: see make reseed" >&2; exit 2; }
	@test "$${NNOPT_SEED_STREAM:-report}" = report || { echo "NNOPT_SEED_STREAM must be report here, got $$NNOPT_SEED_STREAM: see make pilot" >&2; exit 2; }

book: published $(STAMP)
	$(PY) book/_ext/execute.py --jobs 2
	@echo "writing the pages ..."
	@$(VENV)/bin/jupyter-book build -q . -W -n --keep-going || { rm -rf _build/html _build/.doctrees; exit 1; }
	@test -s _build/html/index.html
	@echo "book: open _build/html/index.html"

check: $(STAMP)
	$(PY) book/_ext/lint.py

test: published check
	$(PY) -m pytest -n 2 --dist loadfile -m "not browser"
	$(PY) book/_ext/execute.py --jobs 2
	$(PY) book/_ext/rehearse.py --jobs 2

pilot: $(STAMP)
	@test -n "$(CHAPTER)" || { echo "say which: make pilot CHAPTER=optimizers/descent" >&2; exit 2; }
	$(PY) book/_ext/pilot.py $(CHAPTER)

reseed: $(STAMP)
	$(PY) book/_ext/reseed.py --offsets $(OFFSETS) --chapters $(CHAPTERS)

bench: $(STAMP)
	@for script in benchmarks/*.py; do test -e "$$script" || continue; echo "== $$script"; $(PY) "$$script" || exit 1; done
	@echo "bench: done"

clean:
	rm -rf _build

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (several gigabytes the first time) ..."
	if command -v uv >/dev/null 2>&1; then \
	  uv venv -q --allow-existing $(VENV) && uv pip install --compile-bytecode -p $(PY) -c constraints.txt -e ".[$(EXTRAS)]"; \
	else \
	  python3 -m venv $(VENV) && $(PY) -m pip install --progress-bar on -c constraints.txt -e ".[$(EXTRAS)]"; \
	fi
	touch $@
