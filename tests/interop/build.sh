#!/usr/bin/env bash
# Builds the Go end of the interoperability tests: build.sh OUTPUT. The libraries come through the Go module proxy, at the versions and
# checksums of go.mod and go.sum. Without Go this fails, and the tests with it.
set -euo pipefail
output=$(realpath -m "${1:?usage: build.sh OUTPUT}")
cd "$(dirname "$0")/go"
go=$(command -v go || true)
[ -n "$go" ] || go=/usr/lib/go/bin/go
[ -x "$go" ] || { echo "build.sh: no Go compiler found (Debian package golang-go; cmake/install-deps.sh test)" >&2; exit 1; }
GOTOOLCHAIN=local exec "$go" build -buildvcs=false -mod=readonly -o "$output" .
