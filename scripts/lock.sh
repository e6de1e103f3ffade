#!/usr/bin/env bash
# Writes requirements/{cpu,gpu,otel,build}.txt: the packages of the image, pinned by version and hash.
#
# Usage: scripts/lock.sh
#   PYTHON=python3.12 scripts/lock.sh    uses another interpreter for .venv-lock (default: python3)
#
# Resolved for the image's Python and Linux. The hashes cover every file of a release, so one lock serves x86-64 and
# aarch64. It names no package index: pip uses its configured one.
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
# The packages for tracing come on top of either image: list only those that it does not have yet.
mapfile -t present < <(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package=\1/p' requirements/cpu.txt)
lock otel pyproject.toml --extra otel --override requirements/overrides.txt --constraint requirements/cpu.txt "${present[@]}"
lock build requirements/build.in
