#!/usr/bin/env bash
# The program on a Cloud TPU VM or a pod slice.
#
#   export TPU_NAME=robust TPU_ZONE=us-west4-a        # and a project set in gcloud
#   launch/tpu_vm.sh create [--spot ...]              # TPU_TYPE, TPU_VERSION choose what
#   launch/tpu_vm.sh install [GIT_URL [REVISION]]     # again: fetches the revision
#   launch/tpu_vm.sh run --config configs/x.py --workdir gs://bucket/run ...
#   launch/tpu_vm.sh log                              # follows worker 0; Ctrl-C leaves
#   launch/tpu_vm.sh stop                             # saves; `run` with the same flags resumes
#   launch/tpu_vm.sh delete
#
# `run` starts `python -m jaxrobust.main --distributed` on all workers, detached, each
# with ~/jaxrobust/run.log. A slice of several hosts needs a --workdir that all see
# (gs://). TFDS_DATA_DIR is handed on. A spot slice that was taken away is gone: create,
# install and run again.
#
# Tried: shellcheck; tests/test_launch.py with a stand-in for gcloud, which also runs the
# remote commands of `run` and `stop` in a local shell; the flags against `gcloud --help`
# (528.0.0). Not tried: on a TPU.
set -euo pipefail

die() {
  echo "tpu_vm.sh: $*" >&2
  exit 2
}

tpu() { # tpu SUBCOMMAND [ARGUMENT ...]
  local subcommand=$1
  shift
  gcloud compute tpus tpu-vm "$subcommand" "$TPU_NAME" "--zone=$TPU_ZONE" "$@"
}

on() { # on WORKER COMMAND
  tpu ssh "--worker=$1" "--command=$2"
}

install() {
  local url=${1:-$(git remote get-url origin)} revision=${2:-$(git rev-parse HEAD)}
  local python=${TPU_PYTHON:-python3.11}
  on all "set -e
    [ -d jaxrobust ] || git clone $(printf %q "$url") jaxrobust
    cd jaxrobust && git fetch origin && git checkout $(printf %q "$revision")
    command -v $python >/dev/null ||
      { sudo apt-get update -q && sudo apt-get install -qy $python $python-venv; }
    [ -d .venv ] || $python -m venv .venv
    .venv/bin/python -m pip install -q -c constraints.txt -e '.[tpu]'"
}

run() {
  case " $* " in
    *" --workdir"*) ;;
    *) die "run needs --workdir, a folder that all workers see (gs://bucket/run)." ;;
  esac
  local flags data=""
  flags=$(printf ' %q' "$@")
  [ -z "${TFDS_DATA_DIR:-}" ] || data="TFDS_DATA_DIR=$(printf %q "$TFDS_DATA_DIR")"
  on all "cd ~/jaxrobust || exit
    if kill -0 \"\$(cat run.pid 2>/dev/null)\" 2>/dev/null; then
      echo \"the program already runs (pid \$(cat run.pid)); stop it first\" >&2
      exit 1
    fi
    $data nohup .venv/bin/python -m jaxrobust.main --distributed$flags \
      >>run.log 2>&1 </dev/null &
    echo \$! >run.pid"
}

stop() {
  # All workers get the signal within seconds; the program agrees on a step and saves.
  on all "cd ~/jaxrobust && pid=\$(cat run.pid) || exit
    kill -TERM \"\$pid\" 2>/dev/null || { echo \"not running\"; exit 0; }
    for _ in \$(seq ${STOP_SECONDS:-300}); do
      kill -0 \"\$pid\" 2>/dev/null || exit 0
      sleep 1
    done
    echo \"still running (pid \$pid)\" >&2
    exit 1"
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
  help | -h | --help)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
    exit
    ;;
  create | install | run | log | stop | delete) ;;
  *) die "unknown command '$command'; known: create, install, run, log, stop, delete." ;;
esac
[ -n "${TPU_NAME:-}" ] || die "set TPU_NAME, the name of the TPU VM."
[ -n "${TPU_ZONE:-}" ] || die "set TPU_ZONE, as in us-west4-a."
case $command in
  create)
    tpu create "--accelerator-type=${TPU_TYPE:-v5litepod-8}" \
      "--version=${TPU_VERSION:-v2-alpha-tpuv5-lite}" "$@"
    ;;
  install) install "$@" ;;
  run) run "$@" ;;
  log) on 0 "tail -n 50 -F jaxrobust/run.log" ;;
  stop) stop ;;
  delete) tpu delete "$@" ;;
esac
