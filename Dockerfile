# An index served from a container:
#
#     docker build -t lightcrl .
#     docker run -p 8000:8000 -v /srv/photos.index:/index:ro -v /srv/models:/srv/models:ro lightcrl
#
# The model and the files of the items have to lie where they lay when the index was built (or say --model).
FROM python:3.12-slim-bookworm

WORKDIR /opt/lightcrl
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
# The CPU build of torch; the default one brings gigabytes of CUDA.
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -c constraints.txt ".[serve,audio,builtin,onnx]" \
    && useradd --uid 1000 --create-home lightcrl

USER 1000
ENV OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["lightcrl", "serve"]
CMD ["/index", "--host", "0.0.0.0"]
