# samreg for a CPU:       docker build -t samreg .
# for an NVIDIA GPU too:  docker build --build-arg TORCH=cu130 -t samreg:cuda .     (any folder of torch's package index)
# How to use it: docs/howto/containers.md
FROM debian:bookworm-slim

ARG TORCH=cpu
# "dicom" leaves out elastix, and 1.6 GB with it
ARG EXTRAS=all

RUN apt-get update && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/samreg \
    && useradd --uid 1000 --create-home samreg \
    && install -d -o samreg -g samreg /data

# torch apart: it is the largest by far, and stays as it is when samreg changes
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    /opt/samreg/bin/pip install --no-cache-dir -c /constraints.txt \
        --extra-index-url "https://download.pytorch.org/whl/${TORCH}" torch

RUN --mount=type=bind,target=/source \
    /opt/samreg/bin/pip install --no-cache-dir -c /source/constraints.txt "/source[${EXTRAS}]"

# caches where any user may write: `docker run --user "$(id -u):$(id -g)"` gives one without a home
ENV PATH=/opt/samreg/bin:$PATH \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache

USER samreg
WORKDIR /data
ENTRYPOINT ["samreg"]
CMD ["--help"]
