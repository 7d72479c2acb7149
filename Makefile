.PHONY: help fmt check test gpu test-slurm test-kill test-ranks malformed table bench docs
help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'
fmt:  ## format and fix
	ruff format . && ruff check --fix .
check:  ## lint and types
	ruff format --check . && ruff check . && pyright
test:  ## the tests
	pytest
gpu:  ## the tests that need CUDA
	pytest tests/gpu
test-slurm:  ## a grid on a real Slurm of two nodes, one of which dies; installs Debian packages for the while, needs root
	WORLDKV_SLURM=1 pytest -s tests/slurm
test-kill:  ## 30 SIGKILLs and 10 SIGTERMs at random moments, 20 more of ranks that share a rollout, and the same results (many minutes)
	WORLDKV_KILL=1 pytest -s -n0 tests/kill
test-ranks:  ## all golden runs and every policy over 2 and 4 ranks (many minutes)
	python -m tests.test_parallel 2 && python -m tests.test_parallel 4
malformed:  ## malformed input put to every command; writes the table of docs/reliability.md (minutes)
	python -m tests.malformed_commands
POLICIES := full,sliding,sink_recent,worldkv,worldkv_release,retrieval_only,compression_only,random,recency,oracle,attention
table:  ## run the main comparison (11 policies, 32 trajectories, hours on a CPU) and write its table; what is finished is not run again
	python harness/run.py -m +experiment=table policy=$(POLICIES)
	python harness/docs.py outputs/table_guided
ONCE := full,full_clamped,compression_only,worldkv_release,tempcache,tempcache_mean,annsa,annca,fast_ar,pointvotes
ABLATIONS := no_sink,no_recent,query_heads,query_layers,uniform_rows,worldkv_clamped,sink_recent_rebased,worldkv_release_rebased
BYTES := worldkv,retrieval_only,int4_chunks,places,places_newest,int4_places_coverage,reencode,kcentre,fifo
bench:  ## 72 policies on 24 houses, 54 at three budgets of tokens and 9 at three of bytes (seven to nine hours on two cores); what is finished is not run again
	python harness/sweep.py sweeps/houses_guided.yaml jobs=2 logger=none
	python harness/run.py -m +experiment=houses devices=2 logger=none policy=$(ONCE),$(ABLATIONS)
	python harness/run.py +experiment=houses devices=2 logger=none policy=worldkv policy/selector=release_pose
	python harness/run.py +experiment=houses devices=2 logger=none policy=heads policy.labels=null
	python harness/run.py +experiment=houses devices=2 logger=none policy=attention policy.selector.queries=last
	python harness/run.py +experiment=houses devices=2 logger=none policy=quest policy.scorer.queries=last
	python harness/run.py -m +experiment=houses devices=2 logger=none seed=1 policy=worldkv,retrieval_rebased
	python harness/run.py -m +experiment=bench_bytes devices=2 logger=none policy@policy.inner=$(BYTES) policy.frames=30,45,60
	python harness/run.py -m +experiment=bench_bytes devices=2 logger=none policy@policy.inner=retrieval_only,worldkv,int4_chunks policy/evict=alike policy.frames=30,45,60
	python harness/docs.py outputs/houses_guided outputs/houses_bytes
docs:  ## write the tables and the methods' pages anew, and build the site into site/
	python harness/docs.py
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
