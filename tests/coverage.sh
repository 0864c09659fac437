#!/usr/bin/env bash
# Runs the unit tests in a build directory that counts lines (cmake -DQTRP_COVERAGE=ON) and says which part of each room's lines they run:
# coverage.sh [BUILD]    In BUILD they have just run; without it, makes build/coverage and runs them. Fails if a room without I/O is below 85 %.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
least=85 failed=0
build=${1:-build/coverage}
bash cmake/install-deps.sh build test
if [ $# -eq 0 ]; then
  cmake --preset asan -B "$build" -DQTRP_SANITIZE= -DQTRP_COVERAGE=ON -DQTRP_PCH=ON >/dev/null
  cmake --build "$build" -j "$(nproc)"
  find "$build" -name '*.gcda' -delete
  ctest --test-dir "$build" --output-on-failure -j "$(nproc)" -L unit || failed=1
fi
# What counts is the rooms' own sources, lines that throw or cannot be reached included; of a function in a header the linker may have taken the
# tests' copy, which does not count.
gcovr --root . --object-directory "$build" --filter 'src/.*\.cpp$' --exclude-unreachable-branches --exclude-throw-branches \
  -j "$(nproc)" --json-summary "$build/coverage.json" --print-summary >"$build/coverage.txt" 2>/dev/null || true
python3 - "$build/coverage.json" "$least" <<'PYTHON' || failed=1
import collections, json, sys
pure = {"config", "protocol", "crypto", "mux", "pacing", "session", "stats", "identity"}
rooms = collections.defaultdict(lambda: [0, 0])
for file in json.load(open(sys.argv[1]))["files"]:
    parts = file["filename"].split("/")
    room = parts[1]
    rooms[room][0] += file["line_covered"]
    rooms[room][1] += file["line_total"]
bad = []
print("lines that the unit tests run:")
for room, (covered, total) in sorted(rooms.items()):
    percent = 100 * covered / total if total else 100
    low = room in pure and percent < float(sys.argv[2])
    bad += [room] if low else []
    print(f"  {room:9} {percent:5.1f} %  of {total:5}{'  (pure)' if room in pure else ''}{'  BELOW ' + sys.argv[2] + ' %' if low else ''}")
if missing := pure - set(rooms):
    bad += missing
    print("  nothing known about", *missing)
sys.exit(1 if bad else 0)
PYTHON
exit "$failed"
