#!/bin/bash
# Packing, extraction, scoring and the report, each as a job that begins when the one before has ended well:
#   examples/slurm/pipeline.sh DATA RUN --model my_model.py:build --layers "block*.act"
# SBATCH_PARTITION, SBATCH_ACCOUNT and their like are read by sbatch; WORKERS is the number of array tasks.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
data=$1
run=$2
shift 2
small() { sbatch --parsable --job-name="dissect-$1" --cpus-per-task=1 --mem=4G "${@:3}" --wrap="$2"; }
workers() { sbatch --parsable --array=0-$((${WORKERS:-4} - 1)) "$@"; }
after() { echo "--dependency=afterok:$1 --kill-on-invalid-dep=yes"; }

begin=
if [ -d "$data" ]; then # many small files: make one of them
    packed=$run.h5
    begin=$(after "$(small pack "$(printf '%q ' streamdissect pack "$data" "$packed")")")
    data=$packed
fi
# shellcheck disable=SC2086  # $begin is words, or none
extract=$(workers $begin "$here/extract_array.sbatch" "$data" "$@" --out "$run")
score=$(workers $(after "$extract") "$here/score_array.sbatch" "$run" "$data")
report=$(small report "$(printf '%q ' streamdissect report "$run" --data "$data")" $(after "$score"))
echo "$extract $score $report"
