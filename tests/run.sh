#!/usr/bin/env bash
# Installs what is missing, builds the release preset with warnings as errors, and runs the tests with ctest. Arguments go to ctest:
#   bash tests/run.sh -L unit        only the unit tests
#   bash tests/run.sh -R http        whatever matches a name
# QTRP_PRESET picks another preset (debug, asan, tsan), QTRP_CMAKE adds words for cmake's configuration.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${QTRP_PRESET:-release}

bash cmake/install-deps.sh build test
# The presets say whether the benchmarks are built too.
read -ra more <<<"${QTRP_CMAKE:-}"
cmake --preset "$preset" -DQTRP_TESTS=ON -DQTRP_WERROR=ON -DQTRP_PCH=ON ${more[@]+"${more[@]}"}
cmake --build --preset "$preset" -j "$(nproc)"
# Most tests wait more than they compute, so there are twice as many as processors; those that use a core or more by themselves say so
# (PROCESSORS, RUN_SERIAL).
exec ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$((2 * $(nproc)))" "$@"
