# Image of the workers: Dataflow with GPUs, Spark and Flink; it is the launcher of the Flex Template too.
#
#   docker build --build-arg MODELS="open_clip:ViT-B-32/laion2b_s34b_b79k" -t REGION-docker.pkg.dev/PROJECT/REPOSITORY/beamclip .
#
# BEAM_VERSION and PYTHON_VERSION are those of the machine that launches jobs. MODELS are baked in, so that workers
# need neither the hub nor time to fetch them. torch brings the CUDA libraries; the driver is the host's: where that
# is old, TORCH_INDEX names wheels for an older CUDA, such as https://download.pytorch.org/whl/cu126.

ARG BEAM_VERSION=2.77.0
ARG PYTHON_VERSION=3.12
ARG CUDA_IMAGE=nvidia/cuda:12.8.1-base-ubuntu24.04
ARG FLEX_IMAGE=gcr.io/dataflow-templates-base/python312-template-launcher-base:latest

FROM apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION} AS beam
FROM ${FLEX_IMAGE} AS flex
FROM ${CUDA_IMAGE}
ARG BEAM_VERSION
ARG PYTHON_VERSION

RUN apt-get update \
    && apt-get install -y --no-install-recommends python${PYTHON_VERSION} python${PYTHON_VERSION}-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python${PYTHON_VERSION} -m venv /opt/beamclip/venv

# Beam's entry point makes an environment of its own for what a job stages, from the system's packages; ours are in
# this one. Arrow is to use glibc's allocator, as the commands have it: Beam loads Arrow before it loads ours.
ENV PATH=/opt/beamclip/venv/bin:$PATH \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 \
    ARROW_DEFAULT_MEMORY_POOL=system \
    BEAMCLIP_CACHE=/opt/beamclip/cache \
    HF_HOME=/opt/beamclip/huggingface

ARG TORCH_INDEX=https://pypi.org/simple
RUN pip install --no-cache-dir --index-url ${TORCH_INDEX} torch torchvision

WORKDIR /opt/beamclip/source
COPY setup.py pyproject.toml README.md ./
COPY schemas schemas
COPY clip_transforms clip_transforms
COPY pipelines pipelines
RUN pip install --no-cache-dir "apache-beam[gcp]==${BEAM_VERSION}" ".[dataflow,gcs,s3,hf,http]" \
    && pip check

ARG MODELS=open_clip:ViT-B-32/laion2b_s34b_b79k
RUN for model in ${MODELS}; do beamclip models pull "$model" || exit 1; done
ENV HF_HUB_OFFLINE=1

COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY --from=flex /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/beamclip/source/pipelines/label.py

ENTRYPOINT ["/opt/apache/beam/boot"]
