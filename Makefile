# `make` lists the targets. Everything is installed into VENV on first use, from the lock.
PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8000
ARGS   ?=

BIN   := $(VENV)/bin
NAME  := attention-scoring-functions
READY := $(VENV)/.ready
BUILD := $(BIN)/jupyter-book build . -W -n --keep-going --all

# `make epub` and `make pdf` put their files here; the next `make book` offers them.
export BOOK_DOWNLOADS ?= $(CURDIR)/_build/downloads
DOWNLOADS := $(BOOK_DOWNLOADS)

.DEFAULT_GOAL := help
.PHONY: help translate-status translate-update translate-accept catalogue book notebooks lab test bench refresh serve site-report epub pdf dist lint lock clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

book: $(READY)  ## build the book; every warning is an error
	@$(BUILD)
	@echo "The home page: file://$(CURDIR)/_build/html/index.html"

notebooks: book  ## the chapters as plain notebooks, to run anywhere; the Chinese ones in notebooks/zh
	@$(BIN)/python -m tools.notebooks _build/html notebooks

# JupyterLab is not in the lock: nothing here is tested with it, and it is as much as all the rest.
lab: notebooks  ## the notebooks in JupyterLab, which it installs
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lab]'
	@$(BIN)/jupyter trust notebooks/*.ipynb notebooks/zh/*.ipynb && $(BIN)/jupyter lab --notebook-dir=notebooks

test: $(READY)  ## run every test and every chapter; ARGS="-k masking" for a part
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder $(ARGS)

bench: $(READY)  ## time and memory against peers and floors, a quarter of an hour; ARGS="-k additive"
	$(BIN)/python -m benchmarks $(ARGS)

refresh: $(READY)  ## run the chapters again and store the outputs that changed; ARGS="01" for one
	$(BIN)/python -m tools.refresh $(ARGS)

translate-status: $(READY)  ## what of the Chinese edition is missing, stale or wrong; ARGS=01 for one page
	@$(BIN)/python -m tools.translate status $(ARGS)

translate-update: $(READY)  ## put new pieces of the English into book/zh, to be translated
	@$(BIN)/python -m tools.translate update $(ARGS)

translate-accept: $(READY)  ## after reading both: the Chinese is that of today's English
	@$(BIN)/python -m tools.translate accept $(ARGS)

catalogue: $(READY)  ## what the checks of the exercises say, for translators, and compiled
	$(BIN)/python -m tools.catalogue

serve: $(READY)  ## the book on http://127.0.0.1:8000, built again when a file changes; PORT=9000
	@mkdir -p _build/html
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html & trap "kill $$!" EXIT INT TERM; \
	$(BIN)/watchfiles "sh -c '$(BUILD) -q; echo; echo \"The book: http://127.0.0.1:$(PORT)/\"'" book d2lattn _config.yml _toc.yml

site-report: $(READY)  ## what every page costs its reader, against the targets; ARGS=01 for one
	$(BIN)/python -m tools.report $(ARGS)

epub: $(READY)  ## the book for electronic readers, in English and in Chinese
	@$(BUILD) --path-output _build/epub --builder custom --custom-builder epub
	@$(BIN)/python book/_ext/editions.py _build/epub/zh
	@$(BUILD) --config _build/epub/zh/_config.yml --toc _build/epub/zh/_toc.yml --path-output _build/epub/zh --builder custom --custom-builder epub
	@mkdir -p $(DOWNLOADS) && cp _build/epub/_build/epub/*.epub _build/epub/zh/_build/epub/*.epub $(DOWNLOADS)/ && echo "The book as an EPUB: $(DOWNLOADS)/$(NAME).epub, $(NAME).zh-CN.epub"

pdf: $(READY)  ## the book on paper, in English and in Chinese: Chromium prints it
	@$(BIN)/python -m tools.pdf $(DOWNLOADS)/$(NAME).pdf
	@$(BIN)/python -m tools.pdf $(DOWNLOADS)/$(NAME).zh-CN.pdf

dist: $(READY)  ## the package as an index takes it: sdist and wheel, checked
	rm -rf dist && $(BIN)/python -m build && $(BIN)/twine check --strict dist/*

lint: $(READY)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Left out: what only torch's build for Nvidia cards needs, so that the lock fits every machine.
lock:  ## write requirements.txt again: the newest versions that pyproject.toml allows, torch as it is
	rm -rf _build/lock && $(PYTHON) -m venv _build/lock
	_build/lock/bin/pip install -q -e '.[dev]' "$$(grep '^torch==' requirements.txt)"
	{ sed '/^#/!d' requirements.txt; echo '-e .'; _build/lock/bin/pip freeze --exclude-editable \
	  | sed 's/+cpu$$//' | grep -vE '^(cuda|nvidia|triton)'; } > _build/requirements.txt
	mv _build/requirements.txt requirements.txt && rm -rf _build/lock

clean:  ## remove what was built and installed
	rm -rf _build build dist $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
