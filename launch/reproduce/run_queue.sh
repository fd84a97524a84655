#!/usr/bin/env bash
# Trains, evaluates and publishes what stands in a queue, one network after the other.
#
#   launch/reproduce/run_queue.sh [QUEUE]      # launch/reproduce/queue.txt
#
# Per line a name and arguments of jaxrobust.main. A network is trained in $RUNS/NAME,
# evaluated there (the config's attacks, the adaptive ones and AutoAttack) and in
# $RUNS/NAME/paper (the suite of the paper that the config is of), then published. Stop
# it at any moment: the same command goes on, skips what is done and asks the file anew
# after each network. What fails is told, left, and tried again by the next command.
#
#   RUNS=runs/zoo  EXAMPLES=1000  PAPER_EXAMPLES=200  ZOO=  PYTHON=python
#   SUITE=attacks+adaptive      # AutoAttack is one of the adaptive suite
#   STEPS="train evaluate paper publish"   # or some of them
#
# ZOO is a folder to publish to, in place of the package's. What was trained elsewhere
# under the same name and arguments can be put into $RUNS: it is evaluated from there.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
queue=${1:-$here/queue.txt}
runs=${RUNS:-runs/zoo} python=${PYTHON:-python}
examples=${EXAMPLES:-1000} paper_examples=${PAPER_EXAMPLES:-200}
suite=${SUITE:-attacks+adaptive} steps=${STEPS:-train evaluate paper publish}
[ -f "$queue" ] || { echo "run_queue.sh: there is no $queue" >&2; exit 2; }
trap 'exit 130' INT TERM

# once NAME STEP COMMAND ...: runs a step unless it was done with the same command
once() {
  local name=$1 step=$2
  shift 2
  case " $steps " in *" $step "*) ;; *) return 0 ;; esac
  local mark=$runs/$name/$step.done
  if [ -f "$mark" ] && [ "$(cat "$mark")" = "$*" ]; then return 0; fi
  echo "$(date +%FT%T) $name: $step"
  mkdir -p "$runs/$name"
  local status=0
  "$@" >> "$runs/$name/log" 2>&1 || status=$?
  [ "$status" -lt 128 ] || exit "$status" # stopped by a signal
  if [ "$status" -ne 0 ]; then
    echo "run_queue.sh: $name: $step failed, see $runs/$name/log" >&2
    return 1
  fi
  echo "$*" > "$mark"
}

# paper_of ARGUMENT ...: the suite of the paper that --config is of, '' if of none
paper_of() {
  case "${1#--config} ${2:-}" in
    *ssp_*) echo ssp2020 ;;
    *pclc_*) echo pclc2021 ;;
    *pcl_*) echo pcl2019 ;;
    *fpd_*) echo fpd2020 ;;
    *ssc_*) echo ssc2024 ;;
  esac
}

# The first evaluation has the analyses; a second one need not repeat them.
attacks_alone=(--config.eval.curve.eps=)
for part in growth analysis diagnostics; do
  attacks_alone+=("--config.eval.$part.enabled=False")
done

do_line() { # do_line NAME ARGUMENT ...
  local name=$1
  shift
  local run=$runs/$name evaluate=("$python" -m jaxrobust.main "$@" --mode=eval) suite_of
  once "$name" train "$python" -m jaxrobust.main "$@" --mode=train --workdir "$run" || return 1
  once "$name" evaluate "${evaluate[@]}" --workdir "$run" \
    "--config.eval.suite=$suite" "--config.eval.examples=$examples" || return 1
  suite_of=$(paper_of "$@")
  if [ -n "$suite_of" ]; then
    once "$name" paper "${evaluate[@]}" --checkpoint "$run" --workdir "$run/paper" \
      "--config.eval.suite=$suite_of" "--config.eval.examples=$paper_examples" \
      "${attacks_alone[@]}" || return 1
  fi
  once "$name" publish "$python" -m jaxrobust.zoo.publish "$run" --name "$name" \
    ${ZOO:+--to "$ZOO"} || return 1
}

# The file is read anew for each line, so that lines can be added and moved meanwhile.
tried=" " failed=0
while true; do
  next=()
  while read -r -a words || [ "${#words[@]}" -gt 0 ]; do
    case "${words[0]:-#}" in '#'*) continue ;; esac
    case "$tried" in *" ${words[0]} "*) continue ;; esac
    next=("${words[@]}")
    break
  done < "$queue"
  [ "${#next[@]}" -gt 0 ] || break
  tried="$tried${next[0]} "
  do_line "${next[@]}" || failed=1
done
exit "$failed"
