#!/usr/bin/env bash
# Both daemons as services of a real systemd, which runs as the first process of namespaces of its own, on an overlay of this machine's root:
# install, a request through the tunnel, reload with a good and a bad file, capabilities with and without drop-ins, uninstall. Nothing of
# this machine changes. Ends with 77 where namespaces, overlay or cgroup2 can't be had.
# Usage: systemd.sh DIRECTORY-OF-EXECUTABLES
set -euo pipefail
bin=$(cd "$1" && pwd)
[ "$(id -u)" -eq 0 ] && [ -x /lib/systemd/systemd ] || { echo "NOT TRIED: needs root and systemd"; exit 77; }
work=$(mktemp -d /var/tmp/qtrp-systemd.XXXXXXXX)
outer=
cleanup() {
  [ -z "$outer" ] || kill -KILL "$outer" 2>/dev/null || true
  [ -z "$outer" ] || wait "$outer" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

cat >"$work/boot.sh" <<'SH'
set -e
work=$1 bin=$2
mount --make-rprivate /
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/root
root=/mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work $root
mount -t proc proc $root/proc
mount --rbind /sys $root/sys
mount -t cgroup2 none $root/sys/fs/cgroup
mount --rbind /dev $root/dev
mount -t tmpfs none $root/run
mount -t tmpfs none $root/tmp
install -D "$bin/qtrp-server" "$bin/qtrp-client" -t $root/usr/local/bin
install -m 755 "$work/inside.sh" $root/root/inside.sh
# Only what the test needs is started.
rm -rf $root/etc/systemd/system
mkdir -p $root/etc/systemd/system/basic.target.wants $root/old
printf '[Unit]\nDescription=test\nAfter=systemd-journald.socket\nWants=systemd-journald.socket\nAllowIsolate=yes\n' >$root/etc/systemd/system/default.target
cd $root
pivot_root . old
exec env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=unshare sh -c 'umount -l /old; touch /run/pivoted; exec /lib/systemd/systemd --log-target=null'
SH

cat >"$work/inside.sh" <<'SH'
cd /root
fail() { echo "FAILED: $*"; journalctl --no-pager -u qtrp-server -u qtrp-client | tail -n 40; exit 1; }
capabilities() { sed -n 's/^CapEff:\t//p' "/proc/$(systemctl show -p MainPID --value "$1")/status"; }
ip link set lo up
qtrp-server init --bind 127.0.0.1:6000 -p 2222:127.0.0.1:8080 >init.txt || fail "init"
qtrp-server install -c server.yaml || fail "install of the server"
command=$(grep -o 'qtrp-client -p .*' init.txt | head -n 1)
sh -c "${command/qtrp-client/qtrp-client install}" || fail "install of the client"
mkdir www && echo "it works" >www/page
/usr/bin/python3 -m http.server 8080 --bind 127.0.0.1 --directory www >/dev/null 2>&1 &
got=
for _ in $(seq 100); do
  got=$(curl --noproxy '*' -sf --max-time 5 http://127.0.0.1:2222/page) && break
  sleep 0.1
done
[ "$got" = "it works" ] || fail "no page through the tunnel"
for role in server client; do
  [ "$(capabilities qtrp-$role)" = 0000000000000000 ] || fail "qtrp-$role has capabilities: $(capabilities qtrp-$role)"
  status=/proc/$(systemctl show -p MainPID --value qtrp-$role)/status
  grep -q '^Seccomp:.*2$' "$status" || fail "no system-call filter"
  [ "$(sed -n 's/^Uid:\t\([0-9]*\).*/\1/p' "$status")" -gt 60000 ] || fail "no dynamic user"
done
echo "ok: both services work, as dynamic users without capabilities"
echo 'log: {level: debug, access: /var/log/qtrp-server/access.log}' >>/etc/qtrp/server.yaml
systemctl reload qtrp-server || fail "reload"
curl --noproxy '*' -sf http://127.0.0.1:2222/page >/dev/null || fail "no page after the reload"
for _ in $(seq 100); do grep -qs '{.*}' /var/log/qtrp-server/access.log && break; sleep 0.1; done
grep -qs '{.*}' /var/log/qtrp-server/access.log || fail "no access log"
echo 'nonsense: 1' >>/etc/qtrp/server.yaml
if systemctl reload qtrp-server 2>/dev/null; then fail "a bad file was not told by reload"; fi
qtrp-server reload -c /etc/qtrp/server.yaml 2>told.txt && fail "a bad file was not told"
grep -q "unknown key 'nonsense'" told.txt || fail "reload said: $(cat told.txt)"
sed -i '/nonsense/d' /etc/qtrp/server.yaml
qtrp-server reload -c /etc/qtrp/server.yaml || fail "reload by root, from outside of the service"
[ "$(systemctl is-active qtrp-server)" = active ] || fail "the server did not survive"
echo "ok: reload"
echo 'tls: {cert: /root/server.crt, key: /root/server.key}' >bad.yaml
sed '/^tls:/,$d' server.yaml >>bad.yaml
qtrp-server install -c bad.yaml --force 2>told.txt && fail "a service that cannot start was not told"
grep -q 'journalctl -u qtrp-server' told.txt || fail "install said: $(cat told.txt)"
qtrp-server install -c server.yaml --force || fail "install of the good file"
echo "ok: a service that cannot start is told"
qtrp-server install --low-ports || fail "install --low-ports"
[ "$(capabilities qtrp-server)" = 0000000000000400 ] || fail "low-ports gives $(capabilities qtrp-server)"
qtrp-server install --low-ports --brutal || fail "install --brutal"
[ "$(capabilities qtrp-server)" = 000000c000001400 ] || fail "brutal gives $(capabilities qtrp-server)"
# Brutal over TCP gets from the confined service what it gets from root.
sed 's/127.0.0.1:6000/127.0.0.1:6001/' server.yaml >brutal.yaml
printf 'stats: false\nbrutal: {enabled: true, target_mbps: 10}\n' >>brutal.yaml
chmod 600 brutal.yaml
qtrp-server -c brutal.yaml 2>free.txt &
free=$!
for _ in $(seq 100); do grep -q 'listening for tunnels' free.txt && break; sleep 0.1; done
kill "$free" && wait "$free"
qtrp-server install -c brutal.yaml --force --brutal || fail "install with brutal"
wanted=$(grep -o 'congestion control: .*' free.txt)
journalctl --no-pager -u qtrp-server | grep -o 'congestion control: .*' | tail -n 1 | grep -qxF "$wanted" || fail "not as root has it: $wanted"
echo "ok: drop-ins; $wanted"
qtrp-server uninstall --purge || fail "uninstall"
qtrp-client uninstall || fail "uninstall"
[ "$(systemctl is-active qtrp-server qtrp-client | sort -u)" = inactive ] || fail "still active"
[ -e /etc/qtrp/client.yaml ] && [ ! -e /etc/qtrp/server.yaml ] && [ ! -e /var/lib/private/qtrp-server ] || fail "purge"
echo "ok: uninstall"
SH

unshare --kill-child --pid --fork --mount --uts --ipc --net --cgroup --mount-proc bash "$work/boot.sh" "$work" "$bin" >"$work/boot.log" 2>&1 &
outer=$!
inner=
for _ in $(seq 300); do
  inner=$(ps -o pid= --ppid "$outer" | tr -d ' ')
  if [ -n "$inner" ] && [ "$(cat "/proc/$inner/comm" 2>/dev/null)" = systemd ] &&
    nsenter -t "$inner" -m -p -n -u -i -r -w systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; then break; fi
  if ! kill -0 "$outer" 2>/dev/null; then
    cat "$work/boot.log"
    echo "NOT TRIED: no systemd in namespaces here"
    exit 77
  fi
  sleep 0.1
done
if [ -z "$inner" ] || [ "$(cat "/proc/$inner/comm")" != systemd ]; then
  cat "$work/boot.log"
  echo "NOT TRIED: systemd does not come up here"
  exit 77
fi
env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root nsenter -t "$inner" -m -p -n -u -i -r -w bash /root/inside.sh
