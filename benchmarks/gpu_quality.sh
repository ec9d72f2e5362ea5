#!/usr/bin/env bash
# Slices of benchmarks/gpu_quality.py, one after the other, until the report stands:
#
#     bash benchmarks/gpu_quality.sh --out gpu_quality
#     SLICES=1 bash benchmarks/gpu_quality.sh     # one slice, then back to the queue
#
# Each slice ends before MINUTES (8) are over; status 3: call it again. All flags are
# gpu_quality.py's.
set -u
here=$(cd "$(dirname "$0")" && pwd)
status=3
for ((k = 0; k < ${SLICES:-1000}; k++)); do
    "${PYTHON:-python3}" "$here/gpu_quality.py" --slice "${MINUTES:-8}" "$@"
    status=$?
    [ "$status" -eq 3 ] || break
done
exit "$status"
