#!/usr/bin/env bash
# Writes requirements/{cpu,gpu,otel,build}.txt: what the image installs, each file by version and hash.
#
# Usage: scripts/lock.sh
#   PYTHON=python3.12 scripts/lock.sh    takes another interpreter for .venv-lock (default: python3)
#
# Resolved for the image's Python and Linux. The hashes are of every file of a release, so the same lock serves x86-64
# and aarch64; no package index is named in it, pip takes the one that it is set to.
set -euo pipefail

readonly TOOLS="uv==0.13.9"
readonly PYTHON_OF_IMAGE=3.11 PLATFORM=x86_64-manylinux_2_28

die() {
  echo "lock.sh: $*" >&2
  exit 1
}

case "${1:-}" in
  "") ;;
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) die "unknown argument '$1'; usage: scripts/lock.sh" ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-lock
. scripts/pinned-venv.sh
pinned_venv "$venv" "$TOOLS"

lock() { # NAME SOURCE OPTION…
  local name=$1 source=$2
  shift 2
  UV_CUSTOM_COMPILE_COMMAND="make lock" "$venv/bin/uv" pip compile "$source" "$@" --upgrade --generate-hashes \
    --python-version "$PYTHON_OF_IMAGE" --python-platform "$PLATFORM" --only-binary :all: --no-emit-index-url \
    --quiet --output-file "requirements/$name.txt" || die "cannot resolve $source for $name"
  echo "lock.sh: wrote requirements/$name.txt"
}

lock cpu pyproject.toml --extra cpu --extra fast --override requirements/overrides.txt
lock gpu pyproject.toml --extra gpu --extra fast --override requirements/overrides.txt
# Traces come on top of either: what those do not have yet.
mapfile -t present < <(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package=\1/p' requirements/cpu.txt)
lock otel pyproject.toml --extra otel --override requirements/overrides.txt --constraint requirements/cpu.txt "${present[@]}"
lock build requirements/build.in
