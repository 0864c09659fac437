#!/usr/bin/env bash
# Runs clang-tidy over the sources (all of them, or those named). On demand: it takes longer than the tests do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash cmake/install-deps.sh build test fuzz
# clang cannot read GCC's precompiled header, so it gets a compilation database of its own.
cmake --preset release -B build/tidy -DCMAKE_CXX_COMPILER=clang++-19 -DCMAKE_C_COMPILER=clang-19 -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON \
  -DQTRP_TESTS=OFF -DQTRP_BENCH=OFF >/dev/null
files=("$@")
[ ${#files[@]} -gt 0 ] || mapfile -t files < <(git ls-files -- 'src/**.cpp' 'apps/**.cpp')
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$(nproc)" clang-tidy-19 -p build/tidy --quiet
