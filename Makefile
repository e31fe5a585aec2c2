# mailmux: `make help` lists the targets.

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
FUZZTIME ?= 10s
CLAIMS_FOR ?= 10m
FAILOVER_ACCOUNTS ?= 500000
FAILOVER_SOAK     ?= 200
LDFLAGS  ?= -s -w

STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The race detector needs a C compiler.
RACE ?= $(shell command -v gcc >/dev/null 2>&1 && echo -race)

# These packages start other programs and real servers: they test binaries, so that the race detector would see only the
# tests themselves. MAILMUX_RACE=1 builds the binaries with it.
PROGRAMS = $(shell $(GO) list ./... | grep -E '^mailmux/(integration|tools)(/|$$)')
UNITS    = $(shell $(GO) list ./... | grep -vE '^mailmux/(integration|tools)(/|$$)')

.DEFAULT_GOAL := build
.PHONY: soak-claims soak-cluster soak-spool build test check demo fuzz bench bench-go bench-failover soak-failover install clean help

build: ## Build mailmux and hostfailover into bin/.
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/mailmux
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -tags noetcdserver -o bin/ ./cmd/hostfailover

test: ## Install what the tests need (as root, on Debian) or say what is missing, and run every test.
	@.ci/deps || { [ -z "$$CI" ] && echo "the tests that need them are skipped"; }
	@status=0; set -x; \
	$(GO) test $(RACE) -timeout 10m $(UNITS) || status=1; \
	$(GO) test -count=1 -timeout 15m $(PROGRAMS) || status=1; \
	{ exit $$status; } 2>/dev/null

check: ## Check formatting, vet, staticcheck, and the rules of the layout.
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted; run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags noetcdserver ./proxy/claims
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -run 'TestLayout|TestPackageDocs|TestProtocolsOwnOnlyWords' ./integration

demo: ## Show the whole thing: a directory, two backends, logins, a failover. Needs nothing installed.
	$(GO) run ./tools/demo

fuzz: ## Run every fuzz target for FUZZTIME (10s) each.
	@set -e; for file in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
			echo "== $$(dirname $$file) $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
		done; \
	done

bench: ## Measure mailmux beside its peers, which it installs like the servers of the tests. Takes half an hour.
	@.ci/deps bench || echo "what is missing is left out"
	$(GO) run ./tools/bench

bench-go: ## Run the Go benchmarks of every package.
	$(GO) test -run '^$$' -bench . -benchmem $(UNITS)

bench-failover: ## Move one half of FAILOVER_ACCOUNTS (500000) in slapd, beside ldapmodify. Takes 3 to 5 minutes.
	FAILOVER_ACCOUNTS=$(FAILOVER_ACCOUNTS) $(GO) test -count=1 -timeout 60m -run TestFailoverSpeed -v ./failover

soak-failover: ## Kill hostfailover and slapd FAILOVER_SOAK (200) times, then all evils on FAILOVER_ACCOUNTS. Takes an hour or less.
	FAILOVER_SOAK=$(FAILOVER_SOAK) FAILOVER_ACCOUNTS=$(FAILOVER_ACCOUNTS) $(GO) test -count=1 -timeout 120m -run 'TestKilledAtAnyInstant|TestEveryEvilAtOnce' -v ./cmd/hostfailover

soak-claims: ## Kill, stop and cut off members and frontends for CLAIMS_FOR (10m): no account may ever be on two members.
	MAILMUX_CLAIMS_FOR=$(CLAIMS_FOR) $(GO) test -count=1 -timeout 2h -v -run 'TestClaim' ./integration

soak-cluster: ## Kill, freeze and withdraw members of clusters for minutes, while people work on shared storage.
	MAILMUX_SOAK=1 $(GO) test -count=1 -v -timeout 60m -run 'TestCluster' ./integration

soak-spool: ## Kill daemons 300 times under load, queue 10,000 messages through a failover, scan 1,000,000: a quarter of an hour.
	MAILMUX_SOAK=1 $(GO) test -count=1 -v -timeout 30m -run 'TestCrashAtEveryStep|TestKill|TestScan|TestFailoverWhileMailWaits' ./proxy/spool
	MAILMUX_SOAK=1 $(GO) test -count=1 -v -timeout 60m -run 'TestSpool(SurvivesKills|FollowsFailover)' ./integration

install: build ## Install programs, manual pages, completion and systemd unit below PREFIX (/usr/local), honouring DESTDIR.
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/share/man/man8 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 755 bin/mailmux bin/hostfailover $(DESTDIR)$(PREFIX)/sbin/
	bin/mailmux help -man >$(DESTDIR)$(PREFIX)/share/man/man8/mailmux.8
	bin/hostfailover help -man >$(DESTDIR)$(PREFIX)/share/man/man8/hostfailover.8
	bin/hostfailover completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/hostfailover
	sed 's|/usr/local/s*bin/|$(PREFIX)/sbin/|' examples/systemd/mailmux.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/mailmux.service

clean: ## Remove what was built.
	rm -rf bin

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
