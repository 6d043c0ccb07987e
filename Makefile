.DEFAULT_GOAL := help
.PHONY: help run test test-tf test-emulator test-parity test-smoke test-chaos test-image fuzz bench lint fmt descriptor \
  deploy apply destroy smoke image image-cloud image-docker

REQUEST ?= fixtures/requests/example.json
CARGO ?= cargo
TERRAFORM ?= terraform -chdir=tf
GOOGLE_CLIENTS = google-cloud-dataproc==5.32.0 google-cloud-pubsub==2.44.0 google-cloud-storage==3.17.1

# What tf/ makes is named after PREFIX.
PREFIX ?= inline-workflow
# The project of the image is that of IMAGE, if not given.
IMAGE ?= inline-workflow
BUILDER ?= $(if $(findstring -docker.pkg.dev/,$(IMAGE)),cloud,docker)
image_project = $(or $(PROJECT),$(word 2,$(subst /, ,$(IMAGE))))
# Where Cloud Build builds. Some projects, new ones among them, may use a few regions only:
# https://cloud.google.com/build/docs/locations
BUILD_REGION ?= global

needed = $(or $($(1)),$(error $(1) is needed, as in: make $@ PROJECT=my-project REGION=us-central1))
TF_VARS = $(TF_FLAGS) -var=project=$(call needed,PROJECT) -var=region=$(call needed,REGION) -var=prefix=$(PREFIX)
# The image that was applied last; nothing before the first time. For the shell, so that it is asked when its line is run.
# Without outputs Terraform prints a warning there, sentences of it.
image_now = $$($(TERRAFORM) output -no-color -raw image 2>/dev/null | grep '^[^ ]*[:@][^ ]*$$')

help: ## show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## run one request on the emulator and show its events [REQUEST=fixtures/requests/dag.json]
	$(CARGO) build --locked --quiet --bin function --bin emulator
	target/debug/emulator run --function target/debug/function --request $(REQUEST)

deploy: IMAGE := $(REGION)-docker.pkg.dev/$(PROJECT)/$(PREFIX)/function:$(shell date -u +%Y%m%d-%H%M%S)
deploy: ## all of it into a project: what needs no image, the image, the rest (needs gcloud and terraform) [PROJECT= REGION= PREFIX= BUILDER=docker BUILD_REGION=global TF_FLAGS=-auto-approve]
	gcloud services list --enabled --project=$(call needed,PROJECT) --format='value(config.name)' | grep -qx cloudresourcemanager.googleapis.com || \
	  { gcloud services enable cloudresourcemanager.googleapis.com serviceusage.googleapis.com --project=$(PROJECT) && sleep 120; }
	$(TERRAFORM) init -input=false
	$(TERRAFORM) apply $(TF_VARS) -var=image=$(image_now)
	$(MAKE) image IMAGE=$(IMAGE)
	$(TERRAFORM) apply $(TF_VARS) -var=image=$(IMAGE)

apply: IMAGE = $(image_now)
apply: ## a change of variables alone: terraform apply with the image that runs [PROJECT= REGION= PREFIX= IMAGE= TF_FLAGS=]
	$(TERRAFORM) apply $(TF_VARS) -var=image=$(IMAGE)

# History stays configured while its protection is taken off, whichever way it was switched on.
destroy: history_now = $$($(TERRAFORM) state list google_bigquery_table.history 2>/dev/null | grep -q . && echo '-var=history={}')
destroy: ## all of it gone, with the records, logs and events that it kept [PROJECT= REGION= PREFIX= TF_FLAGS=]
	$(TERRAFORM) apply $(TF_VARS) -var=image=$(image_now) -var=force_destroy=true $(history_now) -target=google_bigquery_dataset.history \
	  -target=google_bigquery_table.history -target=google_storage_bucket.code -target=google_storage_bucket.dataproc -target=google_storage_bucket.logs -target=google_storage_bucket.staging
	-$(TERRAFORM) state rm terraform_data.destroy
	$(TERRAFORM) destroy $(TF_VARS) -var=image= -var=force_destroy=true

smoke: ## try the deployed function, on a real project; costs some cents [PROJECT= REGION= PREFIX= SMOKE=--help]
	python3 tf/smoke.py $(PROJECT:%=--project=%) $(REGION:%=--region=%) $(PREFIX:%=--prefix=%) $(SMOKE)

test: ## all tests that need nothing but cargo
	$(CARGO) test --locked --workspace

test-tf: ## the Terraform module: validated, tested, applied with providers that make nothing, against the function, checkov (needs terraform, those providers, python3 and PyPI)
	$(TERRAFORM) fmt -check -diff -recursive
	$(TERRAFORM) init -backend=false -input=false
	$(TERRAFORM) validate
	$(CARGO) test --locked -p inline-workflow --test terraform -- --include-ignored
	python3 -m venv target/checkov
	target/checkov/bin/pip install --quiet checkov==3.3.30
	target/checkov/bin/checkov --directory tf --framework terraform --skip-download --quiet --compact

test-emulator: ## the end-to-end tests against Google's own Pub/Sub emulator (needs gcloud and Java)
	$(CARGO) build --locked --bin function --bin emulator
	.ci/with-pubsub-emulator $(CARGO) test --locked -p inline-workflow --test end_to_end -- --include-ignored official

test-chaos: ## minutes: 10,000 simulated schedules, then the binary killed at random (gcloud, Java) [SCHEDULES= FIRST_SEED= CHAOS_SEED=7]
	SCHEDULES=$${SCHEDULES:-10000} $(CARGO) test --locked --profile chaos -p inline-workflow --test simulation -- --nocapture
	.ci/with-pubsub-emulator $(CARGO) test --locked -p inline-workflow --test kill -- --ignored --nocapture

fuzz: ## mutated inputs for all that comes from outside, a minute for each target [FUZZ_SECONDS=60 FUZZ_SEED=7 FUZZ_INPUT=target/fuzz/...]
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) $(CARGO) test --locked -p inline-workflow --test fuzz -- --nocapture

test-parity: ## compare with Google's Python client from outside, on the corpus and as many made cases, and under load (needs python3 and PyPI)
	$(CARGO) build --locked --bin function --bin emulator
	python3 -m venv target/parity
	target/parity/bin/pip install --quiet $(GOOGLE_CLIENTS)
	target/parity/bin/python .ci/parity.py --function target/debug/function --emulator target/debug/emulator --corpus fixtures/corpus

test-smoke: ## make smoke against the emulator (needs python3, PyPI, gcloud and terraform)
	$(CARGO) build --locked --bin function --bin emulator
	python3 -m venv target/parity
	target/parity/bin/pip install --quiet $(GOOGLE_CLIENTS)
	target/parity/bin/python .ci/test-smoke --function target/debug/function --emulator target/debug/emulator

bench: ## what an event costs: start, latency, CPU time, sweeps, memory, size (10 minutes) [ONLY=size,start,event,config,sweep,memory,micro PEER="command" PEER_PORT=9000]
	$(CARGO) build --locked --release --bin function --bin floor --bin measure --bin micro
	BINARIES=target/release ONLY=$(ONLY) PEER='$(PEER)' PEER_PORT=$(PEER_PORT) target/release/measure

lint: ## formatting, clippy with warnings denied, dependencies (if cargo-deny is installed)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not installed: dependencies not checked"; fi

fmt: ## format all code
	$(CARGO) fmt --all

descriptor: ## make function/workflow/data/*.binpb anew from Google's Python client (needs python3 and PyPI)
	python3 -m venv target/descriptor
	target/descriptor/bin/pip install --quiet google-cloud-dataproc==5.32.0
	target/descriptor/bin/python function/workflow/data/make_descriptor.py function/workflow/data

image: image-$(BUILDER) ## the container image: with Docker, or built and pushed by Cloud Build [IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/function:TAG BUILDER=docker|cloud BUILD_REGION=global]

image-cloud: # needs gcloud, and what tf/ creates: the repository, the account that builds, the bucket that the sources go to
	$(if $(findstring -docker.pkg.dev/,$(IMAGE)),,$(error IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/function:TAG is needed, not $(IMAGE)))
	gcloud builds submit . --config=tf/cloudbuild.yaml --substitutions=_IMAGE=$(IMAGE) --project=$(image_project) --region=$(BUILD_REGION) \
	  --service-account=projects/$(image_project)/serviceAccounts/$(PREFIX)-build@$(image_project).iam.gserviceaccount.com \
	  --gcs-source-staging-dir=gs://$(image_project)-$(PREFIX)-build/source

image-docker: # needs a Docker engine, and the right to push if IMAGE names a registry
	docker build --tag $(IMAGE) .
	$(if $(findstring /,$(IMAGE)),docker push $(IMAGE))

test-image: ## build the image as the Dockerfile says, without a container engine, and run it as Cloud Run would (needs root, buildah, debootstrap)
	$(CARGO) build --locked --bin emulator
	.ci/test-image
