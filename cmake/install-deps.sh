#!/usr/bin/env bash
# Installs the Debian packages that QTRP needs, on a bare Debian 12 or 13, as root or with sudo. Everything else (the quickstart,
# the tests, CI) calls this. Usage: install-deps.sh [build] [test] [fuzz] [bench] [package]   (default: build)
# What is there already costs one dpkg look-up and no network.
set -euo pipefail

groups=("$@")
[ ${#groups[@]} -gt 0 ] || groups=(build)

. /etc/os-release
codename=${VERSION_CODENAME:?}
backports=() backports_build=() backports_test=()

build=(g++ cmake ninja-build pkg-config git ccache mold ca-certificates
  libboost-dev libssl-dev libsodium-dev libyaml-cpp-dev libmsgpack-cxx-dev libspdlog-dev libfmt-dev libcli11-dev
  nlohmann-json3-dev libgnutls28-dev zlib1g-dev libelf-dev libcap-dev python3 curl)
ngtcp2=(libngtcp2-dev libngtcp2-crypto-gnutls-dev libnghttp3-dev libbpf-dev)
# The BPF congestion controller: its absence leaves the rest whole, so a Debian without these packages still builds.
bpf=(clang bpftool)
# The Debian package: dpkg-shlibdeps finds the dependencies, and CPack asks `file` which files are programs.
package=(dpkg-dev file)
test=(libgtest-dev libgmock-dev libbenchmark-dev python3-venv python3-pytest python3-yaml python3-msgpack
  python3-cryptography chromium-headless-shell fonts-dejavu-core nginx-light openssh-server openssh-client curl iperf3 iproute2 procps golang-go openssl
  libcap2-bin util-linux mount gcovr systemd python3-seccomp prometheus groff-base zsh "${package[@]}")
bench=(wrk iperf3 nginx-light python3-yaml)
fuzz=(clang-19 libclang-rt-19-dev llvm-19 clang-tidy-19 clang-format-19)

# An HTTP/3 client for the tests: libcurl's GnuTLS flavour. libcurl3-gnutls of plain Debian 12 has no HTTP/3.
case "$codename" in
  bookworm)
    backports_build=("${ngtcp2[@]}")
    backports_test=(libcurl3-gnutls)
    ;;
  *)
    build+=("${ngtcp2[@]}")
    test+=(libcurl3t64-gnutls)
    ;;
esac

wanted=()
for group in "${groups[@]}"; do
  case "$group" in
    build) wanted+=("${build[@]}" "${bpf[@]}") backports+=(${backports_build[@]+"${backports_build[@]}"}) ;;
    test) wanted+=("${test[@]}") backports+=(${backports_test[@]+"${backports_test[@]}"}) ;;
    fuzz) wanted+=("${fuzz[@]}") ;;
    bench) wanted+=("${bench[@]}") ;;
    package) wanted+=("${package[@]}") ;;
    *) echo "install-deps.sh: unknown group '$group' (build, test, fuzz, bench, package)" >&2; exit 2 ;;
  esac
done

installed() { dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }

missing=()
for package in "${wanted[@]}"; do installed "$package" || missing+=("$package"); done

missing_backports=()
for package in ${backports[@]+"${backports[@]}"}; do
  # Debian 12 has some of these in a version that is too old: what counts is that the backport is the one installed.
  version=$(dpkg-query -W -f='${db:Status-Abbrev} ${Version}' "$package" 2>/dev/null || true)
  case "$version" in ii*~bpo1[0-9]*) ;; *) missing_backports+=("$package") ;; esac
done

if [ ${#missing[@]} -eq 0 ] && [ ${#missing_backports[@]} -eq 0 ]; then exit 0; fi

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install-deps.sh: run as root or install sudo; missing: ${missing[*]} ${missing_backports[*]-}" >&2; exit 1; }
  sudo=(sudo)
fi

# The archive that this machine already takes its packages from: the first address whose suites name this release.
archive_address() {
  local file
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] || continue
    awk -v suite="$codename" '
      function flush() { if (uri != "" && has) { print uri; exit } uri = ""; has = 0 }
      /^[[:space:]]*$/ { flush(); next }
      tolower($1) == "uris:" { uri = $2 }
      tolower($1) == "suites:" { for (i = 2; i <= NF; i++) if ($i == suite) has = 1 }
      END { flush() }' "$file"
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -f "$file" ] || continue
    sed -n 's/\[[^]]*\]//; s/^deb[[:space:]]\{1,\}//p' "$file" | awk -v suite="$codename" '$2 == suite { print $1 }'
  done
}

apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"; }

if [ ${#missing_backports[@]} -gt 0 ] && ! apt-cache policy | grep -q "n=${codename}-backports"; then
  archive=$(archive_address | head -n 1)
  [ -n "$archive" ] || { echo "install-deps.sh: no apt source for $codename found to take ${codename}-backports from" >&2; exit 1; }
  echo "deb $archive ${codename}-backports main" | "${sudo[@]}" tee /etc/apt/sources.list.d/qtrp-backports.list >/dev/null
fi

echo "installing: ${missing[*]-} ${missing_backports[*]-}" >&2
apt update
# A server package must not start its service here: the tests start their own, on free ports. The policy file ends with this script.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee /usr/sbin/policy-rc.d >/dev/null
  "${sudo[@]}" chmod 755 /usr/sbin/policy-rc.d
  trap '"${sudo[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
fi
if [ ${#missing[@]} -gt 0 ]; then apt install --yes --no-install-recommends "${missing[@]}" >/dev/null; fi
if [ ${#missing_backports[@]} -gt 0 ]; then
  apt install --yes --no-install-recommends -t "${codename}-backports" "${missing_backports[@]}" >/dev/null
fi
