# The workflow with the locked versions of everything in Python:
#   docker build --tag flashmm .
#   docker run --rm --volume "$PWD:/work" flashmm --cores 2 --config 'counts=["cells.h5ad"]' \
#     --configfile /opt/flashmm/config/analysis.yaml
# Options are Snakemake's; inputs and results lie in /work. Methods in R are not in it.
FROM python:3.11-slim-bookworm

ENV OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/flashmm
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY flashmm ./flashmm
RUN pip install --no-cache-dir --constraint constraints.txt '.[workflow]'
COPY Snakefile ./
COPY workflow ./workflow
COPY profiles ./profiles
COPY config ./config

# Numba and Snakemake keep caches in the home of whoever runs; this one may write there.
RUN useradd --create-home --uid 1000 flashmm && mkdir /work && chown flashmm /work
USER flashmm
WORKDIR /work
ENTRYPOINT ["snakemake", "--snakefile", "/opt/flashmm/Snakefile"]
CMD ["--help"]
