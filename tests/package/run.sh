#!/usr/bin/env bash
# Builds the .deb of a build directory, unpacks it elsewhere as dpkg would, and does the main job with what came out: init, server, client by
# the printed command, an echo through the tunnel. Also: cmake --install, the same package twice, manual pages, completion, contents.
# Usage: run.sh BUILD-DIRECTORY
set -euo pipefail
build=$(cd "$1" && pwd)
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/qtrp-package.XXXXXXXX")
pids=()
cleanup() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT
fail() {
  echo "FAILED: $*" >&2
  for log in "$work"/*.log; do [ -f "$log" ] && tail -n 30 "$log" >&2; done
  exit 1
}
ok() { echo "ok: $*"; }

# The package, twice: the same source gives the same bytes.
SOURCE_DATE_EPOCH=$(git -C "$source" log -1 --format=%ct 2>/dev/null || echo 1700000000)
export SOURCE_DATE_EPOCH
for n in 1 2; do
  (cd "$build" && cpack -G DEB -B "$work/cpack$n" >"$work/cpack$n.log" 2>&1) || fail "cpack"
done
deb=$(ls "$work"/cpack1/*.deb)
cmp "$deb" "$work/cpack2/$(basename "$deb")" || fail "two packages of one build differ"
ok "$(basename "$deb"), $(stat -c %s "$deb") bytes, twice the same"

version=$("$build/bin/qtrp-server" --version | cut -d' ' -f2)
[ "$(dpkg-deb -f "$deb" Version)" = "$version" ] || fail "package version $(dpkg-deb -f "$deb" Version), program $version"
depends=$(dpkg-deb -f "$deb" Depends)
for library in libc6 libssl3 libyaml-cpp libspdlog; do
  case "$depends" in *"$library"*) ;; *) fail "$library is not among the dependencies: $depends" ;; esac
done
ok "version $version; depends: $depends"

# What dpkg does, in a root of its own: unpack, then the maintainer scripts with this root's files.
root=$work/root
mkdir "$root"
dpkg-deb -x "$deb" "$root"
dpkg-deb -e "$deb" "$work/control"
for file in usr/bin/qtrp-server usr/bin/qtrp-client usr/lib/systemd/system/qtrp-server.service usr/lib/systemd/system/qtrp-client.service \
  usr/lib/sysusers.d/qtrp.conf usr/share/man/man1/qtrp-server.1.gz usr/share/man/man1/qtrp-client.1.gz \
  usr/share/bash-completion/completions/qtrp-client usr/share/zsh/vendor-completions/_qtrp-server usr/share/doc/qtrp/copyright \
  usr/share/doc/qtrp/configuration.md usr/share/doc/qtrp/examples/server.yaml \
  usr/share/doc/qtrp/examples/qtrp-server.service.d/low-ports.conf; do
  [ -f "$root/$file" ] || fail "no $file in the package"
done
# No configuration with somebody's token, and nothing that others may write.
[ ! -e "$root/etc" ] || fail "the package brings files for /etc"
[ -z "$(find "$root" -perm /022 ! -type l)" ] || fail "writable: $(find "$root" -perm /022 ! -type l)"
[ "$(stat -c %a "$root/usr/bin/qtrp-server")" = 755 ] || fail "mode of the executable"
grep -q '^ExecStart=/usr/bin/qtrp-server ' "$root/usr/lib/systemd/system/qtrp-server.service" || fail "the unit's executable"
for script in postinst prerm postrm; do
  [ -x "$work/control/$script" ] || fail "no $script"
  sh -n "$work/control/$script" || fail "$script"
done
ok "contents"

# Manual pages without a complaint of groff, with every option of --help.
for program in qtrp-server qtrp-client; do
  page=$root/usr/share/man/man1/$program.1.gz
  said=$(zcat "$page" | groff -man -ww -z -Tutf8 2>&1) || fail "$program.1: $said"
  [ -z "$said" ] || fail "$program.1: $said"
  text=$(zcat "$page" | groff -man -Tascii -P-cbou)
  for word in NAME SYNOPSIS OPTIONS COMMANDS 'EXIT CODES' $("$root/usr/bin/$program" --help | grep -oE -- '(^|[ ,])--?[a-z][a-z-]*' | tr -d ' ,' | sort -u); do
    grep -qF -- "$word" <<<"$text" || fail "$program.1 lacks $word"
  done
  bash -n "$root/usr/share/bash-completion/completions/$program" || fail "completion of $program"
done
complete_it() { # words before the cursor; what bash offers
  bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); fn=_${1//-/_}; "$fn"; printf "%s\n" "${COMPREPLY[@]}"' \
    - "$root/usr/share/bash-completion/completions/$1" "$@"
}
[ "$(complete_it qtrp-server ini)" = init ] || fail "bash does not complete init: $(complete_it qtrp-server ini)"
[ "$(complete_it qtrp-server init --addr)" = --address ] || fail "bash does not complete init --address"
[ "$(complete_it qtrp-client --join-f)" = --join-file ] || fail "bash does not complete --join-file"
[ "$(complete_it qtrp-client completion z)" = zsh ] || fail "bash does not complete the shell"
zsh -n "$root/usr/share/zsh/vendor-completions/_qtrp-server" || fail "zsh does not read the completion"
zsh -n "$root/usr/share/zsh/vendor-completions/_qtrp-client" || fail "zsh does not read the completion"
ok "manual pages and completion"

# cmake --install puts the same files elsewhere.
DESTDIR=$work/dest cmake --install "$build" --prefix /usr >"$work/install.log" 2>&1 || fail "cmake --install"
diff <(cd "$root" && find . -type f | sort) <(cd "$work/dest" && find . -type f | sort) || fail "cmake --install and the package differ"
ok "cmake --install"

# The main job, with the package's programs and nothing else.
export PATH=$root/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=$work XDG_STATE_HOME=$work/state
read -r tunnel public service < <(python3 -c '
import socket
held = [socket.socket() for _ in range(3)]
for s in held: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))')
mkdir "$work/www"
head -c 3000000 /dev/urandom >"$work/www/blob"
python3 -u -m http.server "$service" --bind 127.0.0.1 --directory "$work/www" >"$work/web.log" 2>&1 &
pids+=($!)
cd "$work"
qtrp-server init -c server.yaml --bind "127.0.0.1:$tunnel" -p "$public:127.0.0.1:$service" >"$work/init.txt" || fail "init"
echo "stats: false" >>server.yaml
command=$(grep -o "qtrp-client -p .*" "$work/init.txt" | head -n 1)
qtrp-server -c server.yaml >"$work/server.log" 2>&1 &
pids+=($!)
sh -c "exec $command" >"$work/client.log" 2>&1 &
pids+=($!)
for _ in $(seq 200); do
  if curl --noproxy '*' -sf --max-time 10 -o "$work/got" "http://127.0.0.1:$public/blob" 2>/dev/null; then break; fi
  for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || fail "a process ended"; done
  sleep 0.05
done
cmp "$work/got" "$work/www/blob" || fail "what came through the tunnel is not what was served"
ok "3 MB through a tunnel of the package's programs, by the printed command"

# dpkg itself, its maintainer scripts included, on an overlay of this machine's root that ends with its namespace.
cat >"$work/dpkg.sh" <<'SH'
set -e
mount -t tmpfs none /mnt || exit 77
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root || exit 77
cp "$1" /mnt/root/root/qtrp.deb
PATH=/usr/sbin:/usr/bin:/sbin:/bin exec chroot /mnt/root sh -ec '
  dpkg -i --force-depends /root/qtrp.deb
  getent group qtrp >/dev/null
  [ "$(stat -c %a:%U /etc/qtrp)" = 755:root ]
  cd /root && qtrp-server init -c /etc/qtrp/server.yaml --address vps.example.com >/dev/null
  qtrp-server -c /etc/qtrp/server.yaml --check >/dev/null
  dpkg -r qtrp
  [ -f /etc/qtrp/server.yaml ] && [ ! -e /usr/bin/qtrp-server ]
  dpkg -P qtrp
  [ ! -e /etc/qtrp ]'
SH
code=0
if [ "$(id -u)" -eq 0 ]; then unshare --mount bash "$work/dpkg.sh" "$deb" >"$work/dpkg.log" 2>&1 || code=$?; else code=77; fi
case $code in
  0) ok "dpkg -i, -r, -P" ;;
  77) echo "NOT TRIED: dpkg -i (no root, or no overlay here)" ;;
  *) fail "dpkg" ;;
esac

# The service of the package: install puts the configuration beside the packaged unit and writes no second one.
qtrp-server install -c server.yaml --root "$root" >"$work/service.txt" || fail "install: $(cat "$work/service.txt")"
[ -f "$root/etc/qtrp/server.yaml" ] || fail "install wrote no configuration"
[ ! -e "$root/etc/systemd/system/qtrp-server.service" ] || fail "install wrote a second unit"
[ ! -e "$root/usr/local" ] || fail "install copied the executable"
ok "install uses the packaged unit"
