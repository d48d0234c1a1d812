# Two commands do it all: `make run` and `make test`.

GO     ?= go
BINARY := bin/rpcward

.PHONY: build run demo test fuzz compare bench soak clean

build: ## one static binary, bin/rpcward
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o $(BINARY) ./cmd/rpcward

run: build ## serve this host, or without rights an unprivileged port of loopback
	./$(BINARY) serve --fallback

demo: build ## a server, a client and a stranger in namespaces: who gets what (root)
	./test/demo ./$(BINARY)

test: ## everything that this host and this user can test
	./test/run

fuzz: ## each fuzz target for FUZZTIME
	./test/fuzz $(FUZZTIME)

compare: build ## memory and start time beside rpcbind's, for docs/performance.md (root)
	./test/compare ./$(BINARY)

bench: build ## rpcbind, rpcward and an echo under load, into docs/performance.md (root); BENCH=quick: a minute, no file
	./test/bench ./$(BINARY) $(or $(BENCH),full)

soak: build ## mixed load for SOAK (root); RACE=1: with the race detector
	./test/soak ./$(BINARY) $(or $(SOAK),5m)

clean:
	rm -rf bin
