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

if [ ! -d "$root" ]; then
  new=$root.unfinished # renamed when it is complete
  rm -rf "$new"
  mkdir -p "$new"
  debootstrap --arch=arm64 --variant=minbase --foreign --include=python3,libstdc++6 bookworm "$new"
  for package in "$new"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$new"
  done
  rm -rf "$new"/var/cache/apt/archives/*.deb "$new/proc" "$new/sys" # in a container debootstrap links them to the PC's
  cp "$(command -v qemu-aarch64-static)" "$new/usr/bin/"
  # A Pi's own /sys and /proc, as far as they are read: ONNX Runtime counts cores and looks for the instructions of
  # the A76 there (it crashes on the PC's), and the report says what board this is.
  mkdir -p "$new/sys/devices/system/cpu" "$new/proc/device-tree"
  echo 0-3 | tee "$new/sys/devices/system/cpu/possible" >"$new/sys/devices/system/cpu/present"
  printf 'Raspberry Pi 5, emulated by qemu' >"$new/proc/device-tree/model"
  echo "MemTotal: 8388608 kB" >"$new/proc/meminfo"
  for core in 0 1 2 3; do
    printf '%s\t: %s\n' processor $core BogoMIPS 108.00 Features \
      "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp" \
      "CPU implementer" 0x41 "CPU architecture" 8 "CPU variant" 0x4 "CPU part" 0xd0b "CPU revision" 1
    echo
  done >"$new/proc/cpuinfo"
  "$python" -m pip install --quiet --target "$new/usr/local/lib/python3.11/dist-packages" --no-deps \
    --only-binary=:all: --python-version 3.11 --implementation cp --platform manylinux_2_28_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 numpy onnxruntime pillow
  mv "$new" "$root"
fi

inside=$root/opt/bundle
rm -rf "$inside"
mkdir -p "$root/opt"
cp -r "$bundle" "$inside"
rm -rf "$inside/results"
pi_python=$(mktemp)
here=$(mktemp -d)
trap 'rm -rf "$pi_python" "$here"' EXIT
cat >"$pi_python" <<PI
#!/bin/sh
exec unshare --root="$root" --wd=/opt/bundle \\
  /usr/bin/qemu-aarch64-static -cpu cortex-a76 /usr/bin/python3 "\$@"
PI
chmod +x "$pi_python"

PYTHON=$pi_python sh "$inside/run.sh" "$@"

# The same detections on the PC: close to equal in FP32; in INT8 the kernels round differently, boxes may come and go.
"$python" "$bundle/edge.pyz" detect "$bundle/model" "source=$bundle/samples" "project=$here" runtime=onnxruntime >/dev/null
"$python" - "$here/detect/detections.json" "$inside/results/detect/detections.json" <<'PY'
import json
import sys
from pathlib import Path

here, pi = (json.loads(Path(path).read_text())["images"] for path in sys.argv[1:])
for one, other in zip(here, pi):
    boxes = [sorted((d["name"], round(d["score"], 2)) for d in entry["detections"]) for entry in (one, other)]
    print(Path(one["image"]).name, "PC:", boxes[0], "emulated Pi:", boxes[1], sep="\n  ")
PY
echo "results: $inside/results"
