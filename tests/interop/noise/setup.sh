#!/usr/bin/env bash
# Installs the Python package that noise_interop.py needs into a virtual environment. Usage: setup.sh VENV
# An environment that is complete costs no network.
set -euo pipefail
venv=${1:?usage: setup.sh VENV}
package=noiseprotocol==0.3.1

if [ -e "$venv/complete" ] && [ "$(cat "$venv/complete")" = "$package" ]; then exit 0; fi
rm -rf "$venv"
# Debian's own python3-cryptography serves where it is installed.
python3 -m venv --system-site-packages "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check "$package"
echo "$package" >"$venv/complete"
