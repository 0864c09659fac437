#!/usr/bin/env bash
# Shows the whole path on one machine in one command: installs what is missing, builds the release preset, and serves a small web page
# through a tunnel between a qtrp-server and a qtrp-client on free loopback ports. Runs until Ctrl-C; with --once it ends after the fetch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

once=no
case "${1-}" in
  '') ;;
  --once) once=yes ;;
  -h | --help) echo "usage: bash apps/quickstart.sh [--once]"; exit 0 ;;
  *) echo "quickstart.sh: unknown argument '$1' (--once)" >&2; exit 2 ;;
esac

say() { printf '\n== %s\n' "$*"; }

say "packages"
bash cmake/install-deps.sh build

say "build (build/release/bin)"
options=()
# The build group has no test libraries; whoever configured the tests already keeps them.
[ -f build/release/CMakeCache.txt ] || options=(-DQTRP_TESTS=OFF -DQTRP_BENCH=OFF)
cmake --preset release ${options[@]+"${options[@]}"}
cmake --build --preset release --target qtrp-server qtrp-client
bin=$PWD/build/release/bin
python=$(PATH=/usr/bin:/bin:$PATH command -v python3)

umask 077
dir=$(mktemp -d "${TMPDIR:-/tmp}/qtrp-quickstart.XXXXXXXX")
pids=()
cleanup() {
  trap - EXIT INT TERM
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$dir"
}
fail() {
  printf '\nquickstart.sh: %s\n' "$1" >&2
  local log
  for log in "$dir"/*.log; do
    [ -f "$log" ] || continue
    printf -- '--- %s\n' "$(basename "$log")" >&2
    tail -n 40 "$log" >&2
  done
  exit 1
}
trap cleanup EXIT
trap 'echo; echo "stopping"; exit 0' INT TERM

say "start"
read -r tunnel_port public_port server_stats client_stats < <("$python" -c '
import socket
held = [socket.socket() for _ in range(4)]
for s in held: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))')
token=$(od -An -v -tx1 -N24 /dev/urandom | tr -d ' \n')

mkdir "$dir/www"
cat >"$dir/www/index.html" <<'HTML'
<!doctype html>
<title>QTRP</title>
<h1>It works</h1>
<p>This page came from a web server behind the client, through the tunnel, out of a port of the server.</p>
HTML
"$python" -u -m http.server 0 --bind 127.0.0.1 --directory "$dir/www" >"$dir/web.log" 2>&1 &
pids+=($!)

# Tries a command every 50 ms until it succeeds, for ten seconds, as long as every process lives.
await() {
  local what=$1 pid
  shift
  for _ in $(seq 200); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || fail "a process ended while waiting for $what"; done
    sleep 0.05
  done
  fail "no $what after ten seconds"
}
await "web server" grep -q ' port [0-9]' "$dir/web.log"
web_port=$(sed -n 's/.* port \([0-9]*\).*/\1/p' "$dir/web.log" | head -n 1)

cat >"$dir/server.yaml" <<YAML
bind: 127.0.0.1:$tunnel_port
state_dir: $dir/server-state
auth:
  tokens: [$token]
stats: {listen: "127.0.0.1:$server_stats"}
YAML
cat >"$dir/client.yaml" <<YAML
server: 127.0.0.1:$tunnel_port
state_dir: $dir/client-state
token: $token
proxies:
  - {name: web, remote_port: $public_port, local_addr: "127.0.0.1:$web_port"}
stats: {listen: "127.0.0.1:$client_stats"}
YAML
"$bin/qtrp-server" -c "$dir/server.yaml" >"$dir/server.log" 2>&1 &
pids+=($!)
"$bin/qtrp-client" -c "$dir/client.yaml" >"$dir/client.log" 2>&1 &
pids+=($!)

url=http://127.0.0.1:$public_port/
fetch() { curl --noproxy '*' --silent --show-error --fail --max-time 10 "$@"; }
await "page at $url" fetch --output "$dir/page.html" "$url"
cmp -s "$dir/page.html" "$dir/www/index.html" || fail "the page that came through the tunnel is not the page that was served"

say "the page at $url, through the tunnel"
cat "$dir/page.html"
say "statistics, http://127.0.0.1:$server_stats/stats"
fetch "http://127.0.0.1:$server_stats/stats" >"$dir/stats.json" || fail "the statistics could not be fetched"
"$python" -m json.tool "$dir/stats.json" || fail "the statistics are not JSON"

if [ "$once" = yes ]; then
  say "done"
  exit 0
fi
say "running: open $url in a browser"
echo "configuration and logs: $dir"
echo "stop with Ctrl-C"
wait -n "${pids[@]}" || true
fail "a process ended"
