# make demo             train, score and segment with Pocket U-Net on synthetic CT (DATA=folder: on KiTS cases)
# make test             all tests but the slow ones
# make slow             the slow ones: whole deliveries, a real MONAI Label server in an environment of its own
# make faults           hostile inputs and random ones through every command; writes docs/reliability.md
# make bundles          write bundles/ anew from common/
# make web              the page that segments in the browser, docs/web/dist/index.html; needs Node.js 20.19 or later
PYTHON ?= python3.11
BIN := $(CURDIR)/.venv/bin
READY := .venv/ready
BUNDLE := bundles/kits_pocket_unet_segmentation
DEMO := $(CURDIR)/demo
# a worker that dies ends the run: with another in its place, xdist waits for ever
PARALLEL := -n 2 --dist loadgroup --max-worker-restart 0
# OpenMP's threads wait for each other in a loop; beside another busy process the default length of it slows a training
# down, twice and more
export GOMP_SPINCOUNT ?= 10000

ifdef DATA
DEMO_DATA := $(abspath $(DATA))
DEMO_OUT := $(DEMO)/kits
EPOCHS ?= 100
TRAINING := --epochs $(EPOCHS) --validation_fraction 0.3
SIZE :=
else
DEMO_DATA := $(DEMO)/synthetic-cases
DEMO_OUT := $(DEMO)/synthetic
EPOCHS ?= 10
TRAINING := --epochs $(EPOCHS) --windows "{'80': 0.75, '128': 0.25}"
SIZE := --pixel_mm 3
endif
RUN = cd $(BUNDLE) && $(BIN)/python -W ignore -m monai.bundle run
TO := --dataset_dir $(DEMO_DATA) --output_dir $(DEMO_OUT) $(SIZE)

.PHONY: demo test slow faults bundles web clean
demo: $(READY)
ifndef DATA
	$(BIN)/kits-lite demo-data --output $(DEMO_DATA) --count 10
endif
	@echo "== train"
	$(RUN) --config_file configs/train.json $(TO) --ckpt_dir $(DEMO_OUT)/models $(TRAINING)
	@echo "== evaluate on the held-out cases"
	$(RUN) --config_file "['configs/train.json','configs/evaluate.json']" $(TO) --ckpt_dir $(DEMO_OUT)/models
	@echo "== segment"
	$(RUN) --config_file configs/inference.json --dataset_dir $(DEMO_DATA) --output_dir $(DEMO_OUT)/segmentations $(SIZE) \
		--weights $(DEMO_OUT)/models/model.pt
	@echo
	@echo "scores of the held-out cases:      $(DEMO_OUT)/metrics.csv, summary.json"
	@echo "their pictures, label against net: $(DEMO_OUT)/*.png"
	@echo "segmentations of all cases:        $(DEMO_OUT)/segmentations"

test: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python scripts/build_bundles.py --check
	$(BIN)/python -m pytest -m "not slow and not faults" $(PARALLEL) --durations 10

slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not faults" $(PARALLEL) --durations 25

faults: $(READY)
	$(BIN)/python -m pytest tests/faults $(PARALLEL) --write-reliability

bundles: $(READY)
	$(BIN)/python scripts/build_bundles.py

web: $(READY)
	cd docs/web && npm ci && PYTHON=$(BIN)/python npm run build

clean:
	rm -rf .venv demo

# torch first and pinned exactly: a range would let another package pull a build with CUDA
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $(READY)
