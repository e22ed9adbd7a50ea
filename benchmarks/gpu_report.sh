#!/usr/bin/env bash
# Builds, tests and measures on an NVIDIA GPU that TensorRT supports, at full size with random weights.
#
#     pip install torch==2.13.0 -e '.[dev,tensorrt]'
#     benchmarks/gpu_report.sh [FOLDER]
#
# FOLDER (default: gpu-report) then holds report.json with all results, report.html with tables of them, the
# output of each step in NAME.txt, and checkpoint and bundle in work/. A step that fails does not stop the others.
set -uo pipefail
folder=$(realpath -m "${1:-gpu-report}")
cd "$(dirname "$0")/.." || exit

python - <<'PYTHON' || exit
import sys
from animate_rt import AnimateError
from animate_rt.engines.cuda.plan import compute_capabilities, gpu
from animate_rt.engines.cuda.tensorrt import version
try:
    capability, name = gpu()
    supported = compute_capabilities()
except AnimateError as error:
    sys.stderr.write(f"gpu_report: {error}\n")
    sys.exit(error.exit_status)
if capability not in supported:
    sys.stderr.write(f"gpu_report: expected a GPU that {version()} supports, found {name} ({capability})\n")
    sys.exit(69)
print(f"{name}, {capability}, {version()}")
PYTHON

work=$folder/work
bundle=$work/full-512-tensorrt
mkdir -p "$work" || exit
status=$folder/status.txt
: > "$status"
results=()

step() { # NAME COMMAND...: run it, keep its output and its exit status
    local name=$1
    shift
    echo "== $name: $*"
    "$@" > "$folder/$name.txt" 2>&1
    echo "$name $?" | tee -a "$status"
}

measure() { # NAME KIND ARGUMENT...: a measurement of animate-rt bench
    local name=$1
    shift
    step "$name" animate-rt bench "$@" --output "$folder/$name.json"
    if [ -f "$folder/$name.json" ]; then results+=("$folder/$name.json"); fi
}

step tests pytest -m gpu -n 0 -rs
measure peers peers --size full-512 --folder "$work"
measure unet engine "$bundle" --graph denoising_unet
measure decoder engine "$bundle" --graph vae_decoder
measure clip clip "$bundle"

python - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path
folder = Path(sys.argv[1])
report = {"status": {}, "tests": "", "results": {}}
for line in (folder / "status.txt").read_text().splitlines():
    name, status = line.split()
    report["status"][name] = int(status)
    result = folder / f"{name}.json"
    if result.is_file():
        report["results"][name] = json.loads(result.read_text())
report["tests"] = (folder / "tests.txt").read_text().splitlines()[-40:]
(folder / "report.json").write_text(json.dumps(report, indent=1))
PYTHON

if [ ${#results[@]} -gt 0 ]; then
    animate-rt bench report "${results[@]}" --html "$folder/report.html" > "$folder/report.txt"
fi
echo "$folder/report.json"
! grep -qv ' 0$' "$status"
