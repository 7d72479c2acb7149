.PHONY: help fmt check test gpu docs table
help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'
fmt:  ## format and fix
	ruff format . && ruff check --fix .
check:  ## lint and types
	ruff format --check . && ruff check . && pyright
test:  ## the tests
	pytest
gpu:  ## the tests that need CUDA
	pytest tests/gpu
docs:  ## write the README's tables anew
	python harness/docs.py
