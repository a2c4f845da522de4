# gluon_bot in a container, three targets:
#   docker build --target cpu -t gluon-bot:cpu .    docker run --rm --shm-size 1g gluon-bot:cpu
#   docker build --target gpu -t gluon-bot:gpu .    docker run --rm --gpus all --shm-size 8g gluon-bot:gpu
#   docker build --target ngc -t gluon-bot:ngc .    docker run --rm --gpus all --shm-size 8g gluon-bot:ngc
# cpu and gpu are the same Debian and the same script; gpu takes CUDA 11.7, cuDNN and NCCL from PyPI, and the driver from the machine.
# ngc is installed beside the MXNet and Horovod of NVIDIA's container, NGC_IMAGE, which also run on Hopper.
# Data and runs are mounted, and there is time to write a checkpoint: docker run --gpus all --shm-size 8g --stop-timeout 300 \
#   -v "$PWD/data:/work/data" -v "$PWD/runs:/work/runs" gluon-bot:gpu \
#   train resnet50d-cosine --data data/imagenet --out runs/cosine --workers 8 --restarts 3 --resume
ARG IMAGE=debian:bookworm-slim
ARG NGC_IMAGE=nvcr.io/nvidia/mxnet:24.06-py3

FROM ${IMAGE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ libjpeg-dev make python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/gluon_bot
# what the installation depends on comes first: another line of source does not build Horovod again
COPY pyproject.toml setup.cfg README.md ./
COPY scripts/install.sh scripts/constraints.txt scripts/jpeg_crop.c scripts/
COPY scripts/gpu scripts/gpu
COPY gluon_bot/__init__.py gluon_bot/

FROM build AS cpu-build
RUN scripts/install.sh cpu

FROM build AS gpu-build
RUN scripts/install.sh gpu

FROM ${IMAGE} AS run
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 libjpeg62-turbo libquadmath0 openssh-client openssh-server python3 \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
 && useradd --create-home --uid 1000 gluon \
 && install -d -o gluon -g gluon /work /work/data /work/runs
# which records are verified is remembered beside the runs, for the next container
ENV PATH=/opt/gluon_bot/.venv/bin:$PATH XDG_CACHE_HOME=/work/runs/.cache
WORKDIR /work
# not the doctor, whose kernels would take memory of the GPUs from a run
HEALTHCHECK --interval=5m --timeout=1m CMD ["gluon-bot", "recipes"]
ENTRYPOINT ["gluon-bot"]
CMD ["doctor"]

FROM run AS cpu
COPY --from=cpu-build /opt/gluon_bot /opt/gluon_bot
COPY . /opt/gluon_bot
USER 1000:1000

FROM run AS gpu
# the container toolkit brings the driver's libraries and nvidia-smi for these
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-build /opt/gluon_bot /opt/gluon_bot
COPY . /opt/gluon_bot
USER 1000:1000

FROM ${NGC_IMAGE} AS ngc
WORKDIR /opt/gluon_bot
COPY pyproject.toml setup.cfg README.md ./
COPY scripts/install.sh scripts/constraints.txt scripts/jpeg_crop.c scripts/
COPY scripts/gpu scripts/gpu
COPY gluon_bot/__init__.py gluon_bot/
RUN scripts/install.sh existing \
 && useradd --create-home --non-unique --uid 1000 gluon \
 && install -d -o 1000 -g 1000 /work /work/data /work/runs
COPY . /opt/gluon_bot
ENV PATH=/opt/gluon_bot/.venv/bin:$PATH XDG_CACHE_HOME=/work/runs/.cache
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["gluon-bot"]
CMD ["doctor"]
