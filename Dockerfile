# Everything for a CPU: docker build -t yolo-musgd . && docker run --rm -it -v "$PWD:/work" yolo-musgd
FROM python:3.12-slim

# what OpenCV's wheel looks for
# hadolint ignore=DL3008 # whatever version the base image's Debian has
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*

# torch for a CPU is a tenth of the default wheel: pass its index, --build-arg TORCH_INDEX=<the address pytorch.org shows>
ARG TORCH_INDEX=""
# hadolint ignore=DL3013 # the newest; a line of yours may pin it
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

COPY . /src
RUN pip install --no-cache-dir "/src[export,openvino,prune]" && rm -rf /src

RUN useradd --create-home --uid 1000 user
USER 1000
WORKDIR /work
CMD ["yolo-musgd", "help"]
