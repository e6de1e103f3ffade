#!/usr/bin/env bash
# Generates service/pb from proto/ with a pinned protoc. With --check, verifies that service/pb is up to date.
#
# Usage: scripts/proto.sh [--check]
#   PYTHON=python3.12 scripts/proto.sh    uses another interpreter for .venv-proto (default: python3)
#
# The pin is old on purpose. Stubs need a grpcio at least as new as the grpcio-tools that made them, and a protobuf
# runtime of the generator's major version or the next. 1.75.1 writes code for protobuf 6.31.1 and later, including 7,
# and is the oldest release with wheels for Python 3.14.
set -euo pipefail

readonly TOOLS="grpcio-tools==1.75.1"

die() {
  echo "proto.sh: $*" >&2
  exit 1
}

check=false
case "${1:-}" in
  "") ;;
  --check) check=true ;;
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) die "unknown argument '$1'; usage: scripts/proto.sh [--check]" ;;
esac
[[ $# -le 1 ]] || die "too many arguments; usage: scripts/proto.sh [--check]"

cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-proto
. scripts/pinned-venv.sh
pinned_venv "$venv" "$TOOLS"

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

# Generated modules must import each other as service.pb.…, but the proto files must not contain that path, for other
# languages. So the stubs are made from a copy of proto/ with its imports moved to service/pb.
sources=$fresh/proto
cp -R proto "$sources"
find "$sources" -name '*.proto' -exec sed -i.bak -E 's#^import "(inference|convserve)/#import "service/pb/\1/#' {} +
messages=()
services=()
while IFS= read -r file; do
  messages+=("service/pb/$file")
  if grep -q '^service ' "proto/$file"; then services+=("service/pb/$file"); fi
done < <(cd proto && find . -name '*.proto' | sed 's|^\./||' | LC_ALL=C sort)
"$venv/bin/python" -m grpc_tools.protoc -I "service/pb=$sources" --python_out="$fresh" --pyi_out="$fresh" "${messages[@]}"
"$venv/bin/python" -m grpc_tools.protoc -I "service/pb=$sources" --grpc_python_out="$fresh" "${services[@]}"

while IFS= read -r folder; do
  [[ -f "$folder/__init__.py" ]] || die "$folder has no __init__.py; add one with a one-line docstring"
done < <(cd "$fresh" && find service/pb -type d)

if $check; then
  diff -ru --exclude=__pycache__ --exclude=__init__.py --exclude=.gitattributes service/pb "$fresh/service/pb" \
    || die "service/pb is stale or was edited; run scripts/proto.sh and commit the result"
  echo "proto.sh: service/pb is fresh"
else
  find service/pb \( -name '*_pb2.py' -o -name '*_pb2.pyi' -o -name '*_pb2_grpc.py' \) -delete
  cp -R "$fresh/service/pb/." service/pb/
  echo "proto.sh: wrote service/pb"
fi
