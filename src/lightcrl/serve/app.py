"""The routes. The modules of this package do their work; `lightcrl.serve.guarding` checks access and limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from lightcrl import __version__
from lightcrl.data.files import MEDIA
from lightcrl.errors import LightCRLError, RequestError
from lightcrl.serve import captioning, content, figures, schemas, searching, writing
from lightcrl.serve.guarding import BoundedRoute, Watch, answer_error, answer_http, answer_invalid, explain
from lightcrl.serve.limits import read_json
from lightcrl.serve.service import Service

PAGE = Path(__file__).with_name("page")

REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": {"model": schemas.ErrorAnswer}}
UPLOADS: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["items"],
                "properties": {"items": {"type": "array", "items": schemas.NewItem.model_json_schema()}},
            }
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "metadata": {"type": "string", "description": "JSON: an object for all files, or one for each."},
                },
            }
        },
    },
}

router = APIRouter(route_class=BoundedRoute, responses=REFUSALS)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(_service)]
Where = Annotated[schemas.Where | None, Query(alias="filter", description='Such as "year > 2020".')]
Modality = Annotated[str | None, Query(description="Only items of this modality.")]


def make_app(service: Service, failed: Callable[[Exception], None] = lambda error: None) -> FastAPI:
    """Return the application of a service; it starts and stops the service.

    Args:
        service: served index with its settings.
        failed: function that receives an error of the warm-up.
    """

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        service.start(failed)
        yield
        service.stop()

    app = FastAPI(
        title="LightCRL", version=__version__, lifespan=live, redirect_slashes=False, docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.include_router(router)
    if PAGE.is_dir():
        app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.add_exception_handler(LightCRLError, answer_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Exception, answer_error)
    app.add_middleware(Watch, metrics=service.metrics)
    return app


# --- the server itself ---


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the search page."""
    if (PAGE / "index.html").is_file():
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})
    return PlainTextResponse("This server has no page; see /docs for what it answers.", 404)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Return the page of the interface, which draws the schema of `/openapi.json`; it loads nothing from elsewhere."""
    return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})


@router.get("/healthz")
async def health() -> schemas.StatusAnswer:
    """Return status `ok` while the server runs."""
    return schemas.StatusAnswer(status="ok")


@router.get("/readyz", responses={503: {"model": schemas.ErrorAnswer}})
async def ready(service: Served) -> schemas.StatusAnswer:
    """Return status `ok` once the server answers requests, 503 before."""
    service.check_ready()
    return schemas.StatusAnswer(status="ok")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Served) -> Response:
    """Return the metrics in Prometheus's text format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/info")
async def info(service: Served) -> schemas.InfoAnswer:
    """Return a description of the index: items, modalities, columns."""
    answer: schemas.InfoAnswer = await service.searches.run(figures.info, service)
    return answer


# --- searching ---


@router.post("/search", response_model=schemas.SearchAnswer)
async def search(service: Served, asked: schemas.SearchRequest) -> Response:
    """Return the items nearest to a query of texts, pictures, sounds and items."""
    return await searching.search(service, asked)


@router.post("/captions")
async def caption(service: Served, asked: schemas.CaptionRequest) -> schemas.CaptionAnswer:
    """Return captions of an item of the index, of a picture or sound, or of a text, if the model has a captioner."""
    return await captioning.caption(service, asked)


@router.post("/v1/embeddings")
async def embeddings(service: Served, asked: schemas.EmbeddingsRequest) -> schemas.EmbeddingsAnswer:
    """Return embeddings of texts and data URLs, in OpenAI's format."""
    return await searching.embeddings(service, asked)


# --- items ---


@router.get("/items")
async def items(
    service: Served,
    offset: Annotated[int, Query(ge=0, le=10**12)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    where: Where = None,
    modality: Modality = None,
) -> schemas.ItemsAnswer:
    """Return a page of items, in the order of their addition."""
    service.check_modality(modality)
    return await service.searches.run(figures.items, service, offset, limit, where, modality)


@router.post("/items", openapi_extra={"requestBody": UPLOADS})
async def add(service: Served, request: Request) -> schemas.AddedAnswer:
    """Add items. The answer comes after they are on the disk. Needs `--writable`."""
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        try:
            return await writing.add(service, await _uploads(service, request))
        except MultipartParseError as error:
            raise RequestError(f"the form cannot be read: {error}.") from None
    try:
        asked = schemas.NewItems.model_validate(await request.json())
    except ValidationError as error:
        raise RequestError(explain(error.errors())) from None
    return await writing.add(service, asked.items)


@router.delete("/items")
async def remove_some(service: Served, where: Annotated[schemas.Where, Query(alias="filter")]) -> schemas.RemovedAnswer:
    """Remove all items that match a filter. Needs `--writable`."""
    return schemas.RemovedAnswer(removed=await service.writes.run(writing.remove, service, (), where))


@router.get("/items/{item:path}/content", response_class=Response)
async def item_content(
    service: Served,
    request: Request,
    item: str,
    size: Annotated[int, Query(ge=content.SIZES[0], le=content.SIZES[1], description="Longer edge in pixels.")] = 256,
) -> Response:
    """Return the thumbnail of a picture, a sound (byte ranges are supported), or a text."""
    record = await service.searches.run(service.record, item)
    kind = service.index.modalities.get(record.modality)
    if record.text is not None:
        return PlainTextResponse(record.text)
    headers = {"Cache-Control": "private, max-age=300"}
    if record.path is None:
        data, media = await service.searches.run(searching.preview_of, service, record, size)
        part = content.asked_range(request.headers.get("range"), len(data))
        headers["Accept-Ranges"] = "bytes"
        if part is not None:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
        return Response(data if part is None else data[part], 200 if part is None else 206, headers, media)
    path = await service.searches.run(content.file_of, record)
    if kind == "image":
        data, media = await service.searches.run(content.thumbnail, path, size, service.settings.limits)
        return Response(data, media_type=media, headers=headers)
    return FileResponse(path, media_type=content.SOUNDS.get(path.suffix.lower(), content.BYTES), headers=headers)


@router.get("/items/{item:path}")
async def item(service: Served, item: str) -> schemas.ItemAnswer:
    """Return one item."""
    record = await service.searches.run(service.record, item)
    return searching.item_answer(record, service.index.modalities)


@router.delete("/items/{item:path}")
async def remove(service: Served, item: str) -> schemas.RemovedAnswer:
    """Remove one item. Needs `--writable`."""
    return schemas.RemovedAnswer(removed=await service.writes.run(writing.remove, service, (item,), None))


# --- all items ---


@router.get("/map")
async def principal_map(service: Served, limit: Annotated[int, Query(ge=1, le=100_000)] = 100_000) -> schemas.MapAnswer:
    """Return items projected to the plane of the first two principal axes."""
    answer: schemas.MapAnswer = await service.figures.run(figures.make_map, service, limit)
    return answer


@router.get("/duplicates")
async def duplicates(
    service: Served,
    threshold: Annotated[float | None, Query(gt=0, le=1, allow_inf_nan=False)] = None,
    where: Where = None,
    modality: Modality = None,
) -> schemas.DuplicatesAnswer:
    """Return groups of near-identical items, each of one modality."""
    service.check_modality(modality)
    answer: schemas.DuplicatesAnswer = await service.figures.run(
        figures.duplicates, service, threshold, where, modality
    )
    return answer


@router.get("/outliers")
async def outliers(
    service: Served,
    n: Annotated[int | None, Query(ge=1, le=1000, description="Number of items, near or far.")] = None,
    where: Where = None,
    modality: Modality = None,
) -> schemas.OutliersAnswer:
    """Return items far from all others, the farthest first."""
    service.check_modality(modality)
    answer: schemas.OutliersAnswer = await service.figures.run(figures.outliers, service, n, where, modality)
    return answer


async def _uploads(service: Service, request: Request) -> list[schemas.NewItem | writing.Upload]:
    """Return the files of a form, each with its metadata."""
    async with request.form(max_files=schemas.MOST_ITEMS, max_fields=8) as form:
        files = [value for name, value in form.multi_items() if name in ("files", "files[]")]
        told = form.get("metadata", "{}")
        if not files or not all(isinstance(file, UploadFile) for file in files) or not isinstance(told, str):
            raise RequestError("a form without files; expected fields `files`, and metadata as JSON.")
        parts = read_json(told.encode(), service.settings.limits)
        given = parts if isinstance(parts, list) else [parts] * len(files)
        if len(given) != len(files):
            raise RequestError(f"{len(files)} files and {len(given)} metadata; expected one object, or one for each.")
        return [
            _upload(file, await file.read(), metadata)
            for file, metadata in zip(files, given, strict=True)
            if isinstance(file, UploadFile)
        ]


def _upload(file: UploadFile, data: bytes, metadata: Any) -> writing.Upload:
    try:
        item = schemas.NewItem(metadata=metadata)
    except ValidationError as error:
        raise RequestError(explain(error.errors())) from None
    name = file.filename or ""
    kind = MEDIA.get(Path(name).suffix.lower()) or (file.content_type or "").partition("/")[0]
    return writing.Upload(item, name, kind, data)
