#!/usr/bin/env bash
# Runs a bundle for a Raspberry Pi 5 on an x86 PC: Debian bookworm for arm64 (the base of Raspberry Pi OS) under
# qemu's Cortex-A76. It shows that the files work and what they detect. Its times say nothing about a real Pi.
#
#     yolo-musgd bundle model=best.onnx target=raspberry-pi-5
#     sudo export/emulate_raspberry_pi.sh runs/bundle/edge-raspberry-pi-5 [words for the benchmark, e.g. n=5]
#
# Once: sudo apt install qemu-user-static debootstrap. Packages are unpacked and not configured, since python3 and its
# libraries need no more; that saves debootstrap's second stage (a quarter of an hour) and registers nothing.
# Environment: PI_ROOT, the emulated system, kept between runs (420 MB); PYTHON, the PC's Python with pip and numpy.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }
[ $# -ge 1 ] && [ -f "$1/run.sh" ] || fail "the first word must be a bundle's folder (it holds run.sh), got '${1:-}'"
[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root: sudo $0 $*"
for tool in qemu-aarch64-static debootstrap unshare; do
  command -v "$tool" >/dev/null || fail "no $tool here: apt install qemu-user-static debootstrap util-linux"
done
bundle=$(cd "$1" && pwd)
shift
root=${PI_ROOT:-/var/cache/yolo-musgd/pi-bookworm}
python=${PYTHON:-python3}

if [ ! -e "$root/ready" ]; then
  rm -rf "$root"
  mkdir -p "$root"
  debootstrap --arch=arm64 --variant=minbase --foreign --include=python3,libstdc++6 bookworm "$root"
  for package in "$root"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
  done
  rm -rf "$root"/var/cache/apt/archives/*.deb
  cp "$(command -v qemu-aarch64-static)" "$root/usr/bin/"
  # ONNX Runtime counts cores here, and crashes on the PC's own /sys.
  mkdir -p "$root/sys/devices/system/cpu"
  echo 0-3 | tee "$root/sys/devices/system/cpu/possible" >"$root/sys/devices/system/cpu/present"
  "$python" -m pip install --quiet --target "$root/usr/local/lib/python3.11/dist-packages" --no-deps \
    --only-binary=:all: --python-version 3.11 --implementation cp --platform manylinux_2_28_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 numpy onnxruntime
  touch "$root/ready"
fi

rm -rf "$root/root/bundle"
cp -r "$bundle" "$root/root/bundle"
rm -rf "$root/root/bundle/results"
pi_python=$(mktemp)
here=$(mktemp -d)
mount -t proc proc "$root/proc" # memory and core counts are read there
trap 'umount "$root/proc"; rm -rf "$pi_python" "$here"' EXIT
cat >"$pi_python" <<PI
#!/bin/sh
exec unshare --root="$root" --wd=/root/bundle \\
  /usr/bin/qemu-aarch64-static -cpu cortex-a76 /usr/bin/python3 "\$@"
PI
chmod +x "$pi_python"

PYTHON=$pi_python sh "$root/root/bundle/run.sh" "$@"

# The same detections on the PC: close to equal in FP32; in INT8 the kernels round differently, boxes may come and go.
"$python" "$bundle/edge.pyz" detect "$bundle/model" "source=$bundle/samples" "project=$here" runtime=onnxruntime >/dev/null
"$python" - "$here/detect/detections.json" "$root/root/bundle/results/detect/detections.json" <<'PY'
import json
import sys
from pathlib import Path

here, pi = (json.loads(Path(path).read_text())["images"] for path in sys.argv[1:])
for one, other in zip(here, pi):
    boxes = [sorted((d["name"], round(d["score"], 2)) for d in entry["detections"]) for entry in (one, other)]
    print(Path(one["image"]).name, "PC:", boxes[0], "emulated Pi:", boxes[1], sep="\n  ")
PY
echo "results: $root/root/bundle/results"
