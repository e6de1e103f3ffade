#!/usr/bin/env bash
# Serves the bundled models on free ports, classifies the pictures and sentences of this folder over gRPC, then stops.
#
# Usage: examples/demo.sh          (`make demo` sets up the environment first)
#   VENV=.venv examples/demo.sh    uses .venv instead of .venv-serve
#
# Exits 0 only if every call succeeded and the server exited with 0 after SIGTERM.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset grpc_proxy https_proxy http_proxy "${!CONVSERVE_@}" # what is set up for other servers and networks

readonly VENV=${VENV:-.venv-serve}
readonly READY_WITHIN_SECONDS=60
scratch=$(mktemp -d)
server=""
log_copy=""

say() { printf '\n== %s\n' "$*"; }

die() {
  echo "demo: $*" >&2
  if [[ -f $scratch/server.log ]]; then sed 's/^/  server: /' "$scratch/server.log" >&2; fi
  exit 1
}

clean_up() {
  if [[ -n $server ]]; then kill -KILL "$server" 2>/dev/null || true; fi
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The log goes through a named pipe. Reading it waits for the line with the chosen ports.
start_server() {
  mkfifo "$scratch/log"
  "$VENV/bin/convserve" serve --models models --grpc-port 0 --http-port 0 --lame-duck-seconds 0 2>"$scratch/log" &
  server=$!
  exec 3<"$scratch/log"
  local line
  while IFS= read -r line <&3; do
    printf '%s\n' "$line" >>"$scratch/server.log"
    if [[ $line == *'"message": "listening"'* && $line =~ \"grpc_port\":\ ([0-9]+) ]]; then
      address=127.0.0.1:${BASH_REMATCH[1]}
      cat <&3 >>"$scratch/server.log" & # so that the pipe never fills up
      log_copy=$!
      return
    fi
  done
  die "the server exited before it listened"
}

# Health Watch sends the state at once and then every change, so no polling is needed.
wait_until_ready() {
  "$VENV/bin/python" - "$address" "$READY_WITHIN_SECONDS" <<'PYTHON' || die "not ready within $READY_WITHIN_SECONDS s"
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

address, seconds = sys.argv[1:]
with grpc.insecure_channel(address) as channel:
    try:
        for reply in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=float(seconds)):
            if reply.status == reply.SERVING:
                sys.exit(0)
    except grpc.RpcError as error:
        sys.exit(f"health: {error.code().name}: {error.details()}")
sys.exit("health: the server ended its Watch")
PYTHON
}

stop_server() {
  kill -TERM "$server"
  local code=0
  wait "$server" || code=$?
  server=""
  wait "$log_copy"
  [[ $code -eq 0 ]] || die "the server exited with $code after SIGTERM, expected 0"
}

classify() {
  "$VENV/bin/convserve" classify --server "$address" "$@" || die "classify $* failed"
}

classify_pictures() { # MODEL PICTURE…
  local model=$1
  shift
  say "pictures, $model"
  classify --model "$model" --top-k 3 "$@"
}

classify_sentences() { # MODEL FILE, one sentence a line
  local model=$1 sentence sentences=()
  while IFS= read -r sentence; do sentences+=("$sentence"); done <"$2"
  say "sentences, $model"
  classify --model "$model" --top-k 2 --text "${sentences[@]}"
}

start_server
wait_until_ready
say "ready on $address"
classify_pictures lenet5-mnist examples/pictures/digit-*
classify_pictures fastnet94-cifar10 examples/pictures/scene-*
classify_pictures resnet20-cifar10 examples/pictures/scene-*
classify_sentences textcnn-mr examples/sentences.txt
classify_sentences textcnn-trec examples/questions.txt
stop_server
say "every call succeeded, and the server exited with 0 after SIGTERM"
