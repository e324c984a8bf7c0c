#!/usr/bin/env bash
# Measures a model in parts as an array of Slurm, joins them, and writes the quantized model.
# usage: scripts/cluster/slurm-quantize.sh MODEL.gguf IMATRIX.gguf OUTPUT.gguf BPW [PARTS [sbatch options...]]
# Parts keep their state files beside OUTPUT; starting the same command again continues what is unfinished.
# QUANTFIT names the program where it is not in PATH, CPUS the cores of a part (8), QUANTFIT_OPTIONS further options of
# quantfit, separated by blanks, QUANTFIT_WRITE_OPTIONS those of the last job alone.
set -euo pipefail

if [ "${QUANTFIT_STEP:-}" = "" ]; then
  [ $# -ge 4 ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }
  model=$(realpath "$1") importance=$(realpath "$2") output=$(realpath -m "$3") bpw=$4 parts=${5:-4}
  shift $(($# < 5 ? $# : 5))
  export QUANTFIT_MODEL=$model QUANTFIT_IMATRIX=$importance QUANTFIT_OUTPUT=$output QUANTFIT_BPW=$bpw
  export QUANTFIT=${QUANTFIT:-quantfit}
  script=$(realpath "$0")
  logs=$(dirname "$output")
  measure=$(QUANTFIT_STEP=measure sbatch --parsable --export=ALL --job-name=quantfit-measure \
    --array="1-$parts" --cpus-per-task="${CPUS:-8}" --output="$logs/quantfit-%A-%a.log" "$@" "$script")
  measure=${measure%%;*}
  finish=$(QUANTFIT_STEP=finish sbatch --parsable --export=ALL --job-name=quantfit-write \
    --dependency="afterok:$measure" --cpus-per-task="${CPUS:-8}" --output="$logs/quantfit-%j.log" "$@" "$script")
  echo "parts: job $measure, then $output: job ${finish%%;*}"
  exit 0
fi

threads=${SLURM_CPUS_PER_TASK:-1}
read -ra options <<<"${QUANTFIT_OPTIONS:-}"
read -ra write_options <<<"${QUANTFIT_WRITE_OPTIONS:-}"
case $QUANTFIT_STEP in
  measure)
    exec "$QUANTFIT" measure "$QUANTFIT_MODEL" --imatrix "$QUANTFIT_IMATRIX" --shard auto --threads "$threads" \
      "${options[@]}" --state "$QUANTFIT_OUTPUT.part-$SLURM_ARRAY_TASK_ID.qfstate"
    ;;
  finish)
    "$QUANTFIT" state merge "$QUANTFIT_OUTPUT.qfstate" "$QUANTFIT_OUTPUT".part-*.qfstate
    exec "$QUANTFIT" quantize "$QUANTFIT_MODEL" --imatrix "$QUANTFIT_IMATRIX" --target-bpw "$QUANTFIT_BPW" \
      --state "$QUANTFIT_OUTPUT.qfstate" --threads "$threads" --output "$QUANTFIT_OUTPUT" \
      "${options[@]}" "${write_options[@]}"
    ;;
esac
