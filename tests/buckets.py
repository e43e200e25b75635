"""An object store on this machine that stands for S3."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest


@contextmanager
def object_store(*buckets: str) -> Iterator[str]:
    """Serve empty buckets to this process and those that it starts; gives the endpoint."""
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # every request would be a line
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()  # of an earlier server
        for bucket in buckets:
            s3fs.S3FileSystem().mkdir(bucket)
        try:
            yield endpoint
        finally:
            urlopen(Request(f"{endpoint}/moto-api/reset", method="POST")).close()
            server.stop()
            s3fs.S3FileSystem.clear_instance_cache()
