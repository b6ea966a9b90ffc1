# `livecc serve` in a container: docker build -t livecc . && docker run --gpus all -p 8000:8000 -e LIVECC_SERVE_TOKEN=... livecc
# With another model: docker run ... livecc --model chenjoya/LiveCC-7B-Instruct; keep it with -v livecc-models:/models
FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src ./src
COPY modeling ./modeling
COPY recipes ./recipes
COPY examples ./examples
RUN pip install --no-cache-dir ".[serve]"

ENV HF_HOME=/models
RUN useradd --create-home livecc && mkdir -p /models && chown livecc /models
USER livecc
EXPOSE 8000
# 0.0.0.0 is refused without a token: set LIVECC_SERVE_TOKEN, or say --insecure behind a proxy that asks for one.
ENTRYPOINT ["livecc", "serve", "--host", "0.0.0.0", "--port", "8000"]
