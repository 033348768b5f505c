#!/usr/bin/env bash
# Measure samreg on a GPU in one go, on a bare machine: python 3.12 with torch, numpy and scipy, no network.
#
# Before, where there is a network:
#   python experiments/gpu.py prepare FIXED MOVING --out gpu/scans.npz
#   python -m pip download --no-deps --only-binary=:all: --python-version 3.12 -d gpu/wheels \
#     nibabel lazy_loader pooch pydicom importlib_resources
# Then, on the machine:
#   bash experiments/gpu.sh gpu results
#
# GPU_FOLDER holds scans.npz and wheels/*.whl, those of packages that the machine lacks; either may be left out: phantoms
# then stand for the scans. Where SimpleITK is not installed, the stand-in beside this file resamples in its place.
# usage: gpu.sh [GPU_FOLDER] [OUT] [options of gpu.py run, such as --device cpu --quick]
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$here")
folder=${1:-$here/gpu}
out=${2:-${OUT:-gpu-results}}
shift $(($# < 2 ? $# : 2))
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

shopt -s nullglob
for wheel in "$folder"/wheels/*.whl; do # each by itself: one that does not fit stops no other
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$wheel" ||
        echo "not installed: $wheel"
done
# samreg's version, which its results name, as an installed samreg would tell it
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repository/pyproject.toml" | head -n 1)
mkdir -p "$site/samreg-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: samreg\nVersion: %s\n' "$version" >"$site/samreg-$version.dist-info/METADATA"

export PYTHONPATH="$repository:$site${PYTHONPATH:+:$PYTHONPATH}"
"$python" -c 'import SimpleITK' 2>/dev/null || export PYTHONPATH="$PYTHONPATH:$here/gpu_stand_in"
scans=()
[[ -f $folder/scans.npz ]] && scans=(--scans "$folder/scans.npz")
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
"$python" -u "$here/gpu.py" run "${scans[@]}" --out "$out" "$@"
