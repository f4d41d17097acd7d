# Capsid's entry points. `make help` lists them; every one may be called again at any time.
# Needs cargo and make; everything else comes from Debian packages, which `deps` installs when they are missing.

SHELL := /bin/bash
.DEFAULT_GOAL := run
MAKEFLAGS += --no-print-directory

TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
KERNEL ?= $(RELEASE)/vmlinux

# What `capsid run` and the build of its kernel need.
RUN_PACKAGES := gcc libc6-dev binutils linux-source-6.12 flex bison bc libelf-dev xz-utils cpio kmod \
	qemu-system-x86 qemu-system-common e2fsprogs busybox-static passt
# What the tests compare against and are served by.
TEST_PACKAGES := procps erofs-utils umoci skopeo mmdebstrap docker-registry apache2-utils openssl strace tmux acl attr bzip2 zstd \
	gpgv debian-archive-keyring iproute2 dnsmasq-base

.PHONY: help
help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "  %-12s %s\n", $$1, $$2 }'
	@echo "  Variables: PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) CMD='...' (lab) SECONDS_EACH=60 (fuzz)"

.PHONY: run
run: deps ## Builds everything and runs a first container (the default)
	+@$(MAKE) -j$(shell nproc) build kernel
	+@$(MAKE) busybox
	@echo
	@echo '$$ capsid run --rm busybox echo "hello from a machine of its own"'
	@$(RELEASE)/capsid run --rm busybox echo "hello from a machine of its own"
	@echo '$$ capsid run --rm busybox uname -a'
	@$(RELEASE)/capsid run --rm busybox uname -a
	@echo
	@echo "Next: $(RELEASE)/capsid run --rm -it busybox sh"

.PHONY: deps
deps: ## Installs the missing Debian packages for building and running
	@tests/scripts/require-packages $(RUN_PACKAGES)

.PHONY: deps-test
deps-test: deps ## Installs the missing Debian packages for the tests
	@tests/scripts/require-packages $(TEST_PACKAGES)

.PHONY: build
build: deps ## Builds capsid, capsid-vmm, capsid-fs and capsid-agent into target/release
	@command -v $(CARGO) >/dev/null || { echo "make: cargo is not installed: see https://rustup.rs" >&2; exit 1; }
	$(CARGO) build --release --locked -p capsid
	$(CARGO) rustc --release --locked -p capsid-vmm --bin capsid-vmm -- -C target-feature=+crt-static
	$(CARGO) rustc --release --locked -p capsid-fs --bin capsid-fs -- -C target-feature=+crt-static
	$(CARGO) rustc --profile agent --locked -p capsid-agent --bin capsid-agent -- -C target-feature=+crt-static
	@cmp -s $(TARGET)/agent/capsid-agent $(RELEASE)/capsid-agent || install -m 755 $(TARGET)/agent/capsid-agent $(RELEASE)/capsid-agent

.PHONY: build-tests
build-tests: deps ## Builds the tests' own tools: probe and image maker
	$(CARGO) build --release --locked -p capsid-tests --bin capsid-test-images
	$(CARGO) rustc --release --locked -p capsid-tests --bin capsid-probe -- -C target-feature=+crt-static

.PHONY: kernel
kernel: deps ## Builds the guest kernel (minutes at first, then cached by its inputs)
	+kernel-config/build $(RELEASE)

# Kept in the user's own store: what a first `capsid run` after this one finds there.
.PHONY: busybox
busybox: build
	@if ! $(RELEASE)/capsid image inspect busybox:latest >/dev/null 2>&1; then \
		$(CARGO) build --release --locked -q -p capsid-tests --bin capsid-test-images && \
		$(RELEASE)/capsid-test-images busybox $(TARGET)/busybox.tar && \
		$(RELEASE)/capsid load -i $(TARGET)/busybox.tar; \
	fi

# A `+` hands make's job server on: cargo and the kernel's make then share the processors.
.PHONY: test
test: ## Format, lints, unit tests, end to end emulated, and on KVM what depends on the machine; SUITES='run pods' for some
	+@tests/scripts/test-all $(SUITES)

.PHONY: test-full
test-full: ## The same with every suite on KVM and every count at its full size (hours); by hand, before a release
	+@tests/scripts/test-all --full $(SUITES)

# What the tests need, each step timed for the table.
.PHONY: test-parts test-kernel test-programs test-executables test-tools
test-parts: test-programs test-kernel test-executables test-tools

test-kernel:
	+@tests/scripts/phase "kernel" $(MAKE) kernel

test-programs:
	+@tests/scripts/phase "programs (release)" $(MAKE) build

# After the programs: they share a target folder's lock.
test-tools: test-programs
	+@tests/scripts/phase "probe and image maker" $(MAKE) build-tests
	+@tests/scripts/phase "images" $(RELEASE)/capsid-test-images all

test-executables:
	+@tests/scripts/phase "tests (debug)" $(CARGO) test --quiet --locked --workspace --no-run

.PHONY: test-emulate
test-emulate: deps-test build build-tests kernel ## End-to-end tests on this host, without KVM
	CAPSID_ACCEL=emulate $(CARGO) test --locked -p capsid-tests

.PHONY: lab
lab: kernel ## A machine with real KVM: a shell, or CMD='...'
	@tests/scripts/require-packages
	@tests/lab/lab $(CMD)

.PHONY: bench
bench: deps-test build build-tests kernel ## Figures as ratios within one run: a table, and target/bench.json
	$(CARGO) build --release --locked -p capsid-tests --bin capsid-bench
	$(RELEASE)/capsid-bench --output $(TARGET)/bench.json

.PHONY: fuzz
fuzz: deps ## Coverage-guided fuzzing of what reads hostile bytes, SECONDS_EACH seconds each; TARGETS=... for some
	@tests/scripts/require-packages g++ zstd attr
	tests/scripts/fuzz $(or $(SECONDS_EACH),60) $(TARGETS)

.PHONY: fuzz-check
fuzz-check: ## Compiles what `make fuzz` runs, without libFuzzer's own C++
	@CUSTOM_LIBFUZZER_PATH=/dev/null RUSTFLAGS="--cfg fuzzing" $(CARGO) check --quiet --locked --bins \
		--manifest-path tests/fuzz/Cargo.toml --target x86_64-unknown-linux-gnu --target-dir $(TARGET)/fuzz-check

.PHONY: install
install: ## Installs under PREFIX (after `make build kernel`)
	@test -x $(RELEASE)/capsid -a -e $(KERNEL) || { echo "make: run 'make build kernel' first" >&2; exit 1; }
	install -D -m 755 $(RELEASE)/capsid $(DESTDIR)$(PREFIX)/bin/capsid
	install -D -m 755 $(RELEASE)/capsid-vmm $(DESTDIR)$(PREFIX)/libexec/capsid/capsid-vmm
	install -D -m 755 $(RELEASE)/capsid-fs $(DESTDIR)$(PREFIX)/libexec/capsid/capsid-fs
	install -D -m 755 $(RELEASE)/capsid-agent $(DESTDIR)$(PREFIX)/libexec/capsid/capsid-agent
	install -D -m 644 $(KERNEL) $(DESTDIR)$(PREFIX)/share/capsid/vmlinux
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(DESTDIR)$(PREFIX)/share/man/man1
	$(RELEASE)/capsid completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/capsid
	$(RELEASE)/capsid completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_capsid
	$(RELEASE)/capsid completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/capsid.fish
	$(RELEASE)/capsid man > $(DESTDIR)$(PREFIX)/share/man/man1/capsid.1

.PHONY: uninstall
uninstall: ## Removes what install put there
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/, bin/capsid share/bash-completion/completions/capsid \
		share/zsh/site-functions/_capsid share/fish/vendor_completions.d/capsid.fish share/man/man1/capsid.1)
	rm -rf $(DESTDIR)$(PREFIX)/libexec/capsid $(DESTDIR)$(PREFIX)/share/capsid

.PHONY: fmt
fmt: ## Formats the sources
	$(CARGO) fmt --all

.PHONY: lint
lint: format-check clippy deny ## Format check, clippy with warnings as errors, and the crates that are linked

.PHONY: format-check
format-check:
	$(CARGO) fmt --all --check

.PHONY: clippy
clippy:
	$(CARGO) clippy --quiet --locked --workspace --all-targets -- -D warnings

.PHONY: deny
deny: ## Bans, licences and sources of the crates, by cargo-deny where it is installed (make deps-deny)
	@tests/scripts/check-dependencies

.PHONY: deps-deny
deps-deny: ## Installs cargo-deny into target/tools (minutes)
	@tests/scripts/check-dependencies install

.PHONY: clean
clean: ## Removes everything that was built here (not the kernel cache, not your images)
	$(CARGO) clean
