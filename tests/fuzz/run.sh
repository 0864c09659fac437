#!/usr/bin/env bash
# Builds the fuzz targets (preset fuzz, clang 19) and runs each for SECONDS (default 20) from its seeds: run.sh [SECONDS] [TARGET...]
# Fails if any target finds anything; the input that did it is left in build/fuzz/fuzz/.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-20}
shift || true
cmake --preset fuzz -DQTRP_FUZZ_SECONDS="$seconds" >/dev/null
if [ $# -gt 0 ]; then
  cmake --build --preset fuzz --target "$@"
  pattern="^($(IFS='|'; echo "$*"))$"
else
  cmake --build --preset fuzz --target fuzzers
  pattern='.'
fi
exec ctest --test-dir build/fuzz -L fuzz -R "$pattern" --output-on-failure -j "$(nproc)"
