# gluon_bot in a container, two targets:
#   docker build --target cpu -t gluon-bot:cpu .          docker run --rm gluon-bot:cpu
#   docker build --target gpu -t gluon-bot:gpu .          docker run --rm --gpus all gluon-bot:gpu
# Data and runs are mounted: docker run --gpus all --shm-size 8g -v "$PWD/data:/work/data" -v "$PWD/runs:/work/runs" gluon-bot:gpu \
#   train resnet50d-cosine --data data/imagenet --out runs/cosine --workers 8
# CUDA_IMAGE names another CUDA 11 with cuDNN 8, whose -devel- and -runtime-ubuntu22.04 images are the bases of target gpu.
ARG CUDA_IMAGE=nvidia/cuda:11.7.1-cudnn8
ARG CPU_IMAGE=debian:bookworm-slim

FROM ${CPU_IMAGE} AS cpu-build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/gluon_bot
# what the installation depends on comes first: another line of source does not build Horovod again
COPY pyproject.toml setup.cfg README.md ./
COPY scripts/install.sh scripts/constraints.txt scripts/
COPY gluon_bot/__init__.py gluon_bot/
RUN scripts/install.sh cpu

FROM ${CUDA_IMAGE}-devel-ubuntu22.04 AS gpu-build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 # a build has no driver, which brings libcuda.so.1: the toolkit's stub lets MXNet load, and Horovod be built for it
 && ln -s /usr/local/cuda/lib64/stubs/libcuda.so /usr/local/cuda/lib64/stubs/libcuda.so.1
WORKDIR /opt/gluon_bot
COPY pyproject.toml setup.cfg README.md ./
COPY scripts/install.sh scripts/constraints.txt scripts/
COPY gluon_bot/__init__.py gluon_bot/
RUN LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs:$LD_LIBRARY_PATH scripts/install.sh gpu

FROM ${CPU_IMAGE} AS cpu
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 libquadmath0 openssh-client openssh-server python3 \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
 && useradd --create-home --uid 1000 gluon \
 && install -d -o gluon -g gluon /work /work/data /work/runs
COPY --from=cpu-build /opt/gluon_bot /opt/gluon_bot
COPY . /opt/gluon_bot
ENV PATH=/opt/gluon_bot/.venv/bin:$PATH
USER 1000:1000
WORKDIR /work
HEALTHCHECK --interval=5m --timeout=2m CMD ["gluon-bot", "doctor"]
ENTRYPOINT ["gluon-bot"]
CMD ["doctor"]

FROM ${CUDA_IMAGE}-runtime-ubuntu22.04 AS gpu
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 libquadmath0 openssh-client openssh-server python3 \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
 && useradd --create-home --uid 1000 gluon \
 && install -d -o gluon -g gluon /work /work/data /work/runs
COPY --from=gpu-build /opt/gluon_bot /opt/gluon_bot
COPY . /opt/gluon_bot
ENV PATH=/opt/gluon_bot/.venv/bin:$PATH
USER 1000:1000
WORKDIR /work
HEALTHCHECK --interval=5m --timeout=2m CMD ["gluon-bot", "doctor"]
ENTRYPOINT ["gluon-bot"]
CMD ["doctor"]
