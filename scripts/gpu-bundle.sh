#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs a release for one GPU rank on a bare machine with CUDA: sm_90 alone, stripped, CUDA and NCCL taken from that machine, no
# MPI; with the demo model, its reference answers and the tests that scripts/gpu-check.sh runs there.
# Usage: gpu-bundle.sh [OUTPUT.tar.xz]   (build folder: build/gpu-bundle; BUNDLE_ARCHITECTURES overrides "90")
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(common::root)"

(($# <= 1)) || common::err "expected one OUTPUT.tar.xz at most, found '$*'"
most_bytes=$((40 << 20))
output=$(realpath -m "${1:-build/sluice-gpu.tar.xz}")
build=build/gpu-bundle
command -v nvcc >/dev/null || [[ -x ${CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]] || common::err "no nvcc here: load a CUDA module or set CUDA_HOME"
command -v python3 >/dev/null || common::err "python3 is needed to check the demo model's answers"

common::log "building for sm_${BUNDLE_ARCHITECTURES:-90} ($build)"
cmake --preset cuda -B "$build" -DCMAKE_CUDA_ARCHITECTURES="${BUNDLE_ARCHITECTURES:-90}" -DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON >/dev/null
cmake --build "$build" --target sluice sluice_cuda cuda_native_test cuda_native_kernels_test cuda_kernels_bench

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
release=$stage/sluice-gpu check=$stage/sluice-gpu/share/check
# Only what one rank needs: programs and libraries, no job scripts.
cmake --install "$build" --prefix "$release" >/dev/null
rm -rf "$release"/{slurm,env,docs}
mkdir -p "$check"
cp "$build"/tests/cuda/cuda_{native_test,native_kernels_test,kernels_bench} "$check/"
strip "$check"/cuda_* "$release/bin/sluice" "$release"/lib/sluice/*.so
cp -r tests/models/demo "$check/demo"
cp scripts/gpu-check.sh scripts/lib.sh "$release/scripts/"
cp benchmarks/{common,load_time,python_peers}.py "$check/"

common::log "answers of the CPU, compared with the committed ones"
python3 - "$check" <<'PYTHON'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
cases = json.loads(pathlib.Path("tests/models/demo_golden.json").read_text())["chat"]
(folder / "demo_prompts.jsonl").write_text("".join(json.dumps({"messages": c["messages"]}) + "\n" for c in cases))
PYTHON
"$release/bin/sluice" generate --device cpu --dtype float32 --model "$check/demo" --prompts "$check/demo_prompts.jsonl" \
  --output "$check/demo_expected.jsonl" --max-new-tokens 200 --log-level warning
rm -f "$check"/demo_expected.jsonl.journal*
python3 - "$check" <<'PYTHON'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
cases = json.loads(pathlib.Path("tests/models/demo_golden.json").read_text())["chat"]
answers = [json.loads(line) for line in (folder / "demo_expected.jsonl").read_text().splitlines()]
wrong = [i for i, (c, a) in enumerate(zip(cases, answers, strict=True)) if c["text"] != a["text"]]
sys.exit(f"the CPU's answers {wrong} differ from tests/models/demo_golden.json" if wrong else 0)
PYTHON
"$release/scripts/verify-release.sh" "$release" --record

mkdir -p "$(dirname "$output")"
# Four programs hold the same kernels: a dictionary that spans them all keeps one copy.
tar -C "$stage" --sort=name --owner=0 --group=0 -c sluice-gpu | xz --lzma2=preset=6,dict=256MiB >"$output"
size=$(stat -c %s "$output")
((size <= most_bytes)) || common::err "$output has $size bytes, more than the $most_bytes that a bundle may have"
common::log "$output: $((size >> 10)) KiB; unpack it on a machine with a GPU and run sluice-gpu/scripts/gpu-check.sh sluice-gpu"
