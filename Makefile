# The commands that everyone needs; CI runs the same ones.
.PHONY: build test bench lint format docs notebooks site wheel

C_FILES = $(shell find csrc cuda tests/cuda_emulation docs/learn/matmul -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu')

build: ## an editable build: changes of C files are compiled at the next import
	pip install --no-build-isolation -Ceditable.rebuild=true -Cbuild-dir=build -e '.[test,lint,bench]'

test:
	pytest

bench: ## nothing else should run at the same time
	pytest bench

lint:
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror $(C_FILES)

format:
	ruff check --fix .
	ruff format .
	clang-format -i $(C_FILES)

docs:
	python tools/run_docs.py

notebooks: ## runs notebooks/*.py, and writes what they print and draw into the .ipynb files
	python tools/run_notebooks.py --write

site: ## the documentation as pages in site/
	NO_MKDOCS_2_WARNING=1 mkdocs build -q

wheel: ## a wheel for Linux in dist/, which is installed and trained with where there is no compiler
	tools/wheel.sh
