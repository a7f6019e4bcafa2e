#!/usr/bin/env bash
# Runs a bundle for a Raspberry Pi 5 on an x86 PC: Debian bookworm for arm64 (the base of Raspberry Pi OS) under
# qemu's Cortex-A76. It shows that the files work and what they detect. Its times say nothing about a real Pi.
#
#     yolo-musgd bundle model=best.onnx target=raspberry-pi-5
#     sudo export/emulate_raspberry_pi.sh runs/bundle/edge-raspberry-pi-5 [words for the benchmark, e.g. n=5]
#
# A bundle of several artifacts is no race here: each detects in each runtime, and is held against the PC.
#
# Once: sudo apt install qemu-user-static debootstrap. Packages are unpacked and not configured, since python3 and its
# libraries need no more; that saves debootstrap's second stage (a quarter of an hour) and registers nothing.
# Environment: PI_ROOT, the emulated system, kept between runs (420 MB, 900 MB more with ExecuTorch); PYTHON, the PC's
# Python with pip and numpy; PI_PACKAGES=openvino, to see an ONNX artifact in OpenVINO too.
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
  # the A76 there (it crashes on the PC's), OpenVINO asks for caches and topology (it crashes without them), and the
  # report says what board this is.
  mkdir -p "$new/proc/device-tree" "$new/sys/devices/system/node/node0"
  cpus=$new/sys/devices/system/cpu
  for core in 0 1 2 3; do
    cpu=$cpus/cpu$core
    mkdir -p "$cpu/topology" "$cpu/cpufreq" "$cpu/regs/identification"
    for name in core_id core_cpus_list thread_siblings_list; do echo "$core" >"$cpu/topology/$name"; done
    for name in core_cpus thread_siblings; do echo $((1 << core)) >"$cpu/topology/$name"; done
    for name in core_siblings_list package_cpus_list; do echo 0-3 >"$cpu/topology/$name"; done
    for name in core_siblings package_cpus; do echo f >"$cpu/topology/$name"; done
    echo 0 >"$cpu/topology/physical_package_id"
    echo 2400000 >"$cpu/cpufreq/cpuinfo_max_freq"
    echo 0x00000000414fd0b1 >"$cpu/regs/identification/midr_el1"
    while read -r index level type size list map; do
      mkdir -p "$cpu/cache/index$index"
      for fact in level=$level type=$type size=$size shared_cpu_list=$list shared_cpu_map=$map coherency_line_size=64; do
        echo "${fact#*=}" >"$cpu/cache/index$index/${fact%%=*}"
      done
    done <<CACHES
0 1 Data 64K $core $((1 << core))
1 1 Instruction 64K $core $((1 << core))
2 2 Unified 512K $core $((1 << core))
3 3 Unified 2048K 0-3 f
CACHES
  done
  for name in possible present online; do echo 0-3 >"$cpus/$name"; done
  echo 0-3 >"$new/sys/devices/system/node/node0/cpulist"
  echo "root:x:0:0:root:/root:/bin/sh" >"$new/etc/passwd"
  printf 'Raspberry Pi 5, emulated by qemu' >"$new/proc/device-tree/model"
  echo "MemTotal: 8388608 kB" >"$new/proc/meminfo"
  for core in 0 1 2 3; do
    printf '%s\t: %s\n' processor $core BogoMIPS 108.00 Features \
      "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp" \
      "CPU implementer" 0x41 "CPU architecture" 8 "CPU variant" 0x4 "CPU part" 0xd0b "CPU revision" 1
    echo
  done >"$new/proc/cpuinfo"
  mv "$new" "$root"
fi

# What the bundle's runtimes need, wheels for ARM64. ExecuTorch imports PyTorch: an older pair of the two, since today's
# PyTorch for ARM64 brings CUDA along.
site=$root/usr/local/lib/python3.11/dist-packages
arm() {
  "$python" -m pip install --quiet --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --target "$site" \
    $(printf -- '--platform manylinux%s_aarch64 ' _2_35 _2_31 _2_28 _2_27 _2_17 2014) "$@"
}
for package in numpy pillow onnxruntime $(grep -ioxE 'ncnn|mnn|openvino|executorch' "$bundle/requirements.txt") ${PI_PACKAGES:-}; do
  find "$site" -maxdepth 1 -iname "$package-*.dist-info" 2>/dev/null | grep -q . && continue
  case $package in
    executorch) arm executorch==1.1.0 torch==2.10.0 torchao==0.15.0 sympy==1.14.0 mpmath==1.3.0 typing-extensions \
      filelock jinja2 markupsafe fsspec networkx pyyaml ruamel.yaml flatbuffers tabulate packaging ;;
    *) arm "$package" ;;
  esac
done

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

runtimes_of() { # artifact's folder
  for pair in onnx:onnxruntime onnx:openvino param:ncnn mnn:mnn pte:executorch xml:openvino; do
    find "$1" -maxdepth 1 -name "*.${pair%:*}" | grep -q . || continue
    [ "$pair" != onnx:openvino ] || [ -d "$site/openvino" ] || continue
    echo "${pair#*:}"
  done
}

# One artifact: the bundle's own script. Several: one detects after the other, a race would take a day here.
if [ -d "$bundle/model" ]; then
  PYTHON=$pi_python sh "$inside/run.sh" "$@"
  set -- "model $(runtimes_of "$bundle/model" | head -n 1) detect"
else
  set --
  for artifact in "$bundle"/models/*/; do
    path=models/$(basename "$artifact")
    for runtime in $(runtimes_of "$artifact"); do
      name=$(basename "$path")-$runtime
      "$pi_python" edge.pyz detect "$path" source=samples project=results "name=$name" "runtime=$runtime" conf=0.25 \
        threads=1 save=False
      set -- "$@" "$path $runtime $name"
    done
  done
fi

# The same detections on the PC: close to equal in FP32; in INT8 the kernels round differently, boxes may come and go.
# OpenCV here and Pillow there would resize differently, by up to one grey level, so it is Pillow here too.
on_pc() { # path, runtime, name
  "$python" -c 'import sys; sys.modules["cv2"] = None; sys.path.insert(0, sys.argv.pop(1))
from edge.__main__ import main; sys.exit(main())' "$bundle/edge.pyz" detect "$bundle/$1" "source=$bundle/samples" \
    "project=$here" "runtime=$2" "name=$3" $([ "$1" = model ] || echo conf=0.25) >/dev/null 2>&1
}
for case in "$@"; do
  read -r path runtime name <<<"$case"
  [ "$runtime" != onnxruntime ] || [ -d "$here/onnx" ] || on_pc "$path" onnxruntime onnx
done
for case in "$@"; do
  read -r path runtime name <<<"$case"
  on_pc "$path" "$runtime" "$name" || {
    [ -d "$here/onnx" ] || { echo "$path: this PC has no $runtime to hold it against" && continue; }
    echo "this PC has no $runtime: its ONNX Runtime stands in"
    ln -s onnx "$here/$name"
  }
  echo "$path in $runtime"
  "$python" - "$here/$name/detections.json" "$inside/results/$name/detections.json" <<'PY'
import json
import sys
from pathlib import Path

here, pi = (json.loads(Path(path).read_text())["images"] for path in sys.argv[1:])
for one, other in zip(here, pi):
    found = [sorted((d["name"], round(d["score"], 2)) for d in entry["detections"]) for entry in (one, other)]
    print(Path(one["image"]).name, "PC:", found[0], "emulated Pi:", found[1], sep="\n  ")
    if [d["name"] for d in one["detections"]] == [d["name"] for d in other["detections"]]:
        pairs = list(zip(one["detections"], other["detections"]))
        pixels = max((abs(a - b) for p, q in pairs for a, b in zip(p["box"], q["box"])), default=0)
        scores = max((abs(p["score"] - q["score"]) for p, q in pairs), default=0)
        print(f"  at most {pixels:.2f} pixels and {scores:.5f} in score apart")
PY
done
echo "results: $inside/results"
