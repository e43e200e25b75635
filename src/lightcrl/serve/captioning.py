"""Captions: a text for an item of the index, or for a picture, sound or text of a request."""

from __future__ import annotations

from typing import Any

from lightcrl.captioner import Captioner
from lightcrl.errors import RequestError
from lightcrl.serve.schemas import CaptionAnswer, CaptionRequest, WrittenCaption
from lightcrl.serve.searching import decode
from lightcrl.serve.service import Service

KINDS = ("text", "image", "audio")


async def caption(service: Service, asked: CaptionRequest) -> CaptionAnswer:
    """Return the captions of one item, the best first.

    Raises:
        BusyError: too many requests wait.
        RequestError: there is not one item, it is of another kind than the captioner's, or the server encodes by an
            exported model, which gives no tokens.
        HeadError: the model has no captioner, or several.
        LightCRLError: the content is unreadable, or the id is unknown.
    """
    if service.settings.encoder is not None:
        raise RequestError("this server encodes by an exported model, which gives no captions; start it without one.")
    kind, raw = await _content(service, asked)
    captioner: Captioner = await service.searches.run(service.captioner, asked.head)
    expected = service.index.modalities[captioner.modality]
    if kind != expected:
        raise RequestError(f"found content of kind {kind!r}; the captioner describes {expected!r}.")
    (written,) = await service.searches.run(captioner.captions, [raw], beams=asked.beams)
    return CaptionAnswer(
        caption=written[0].text,
        captions=[WrittenCaption(text=each.text, score=each.score) for each in written],
    )


async def _content(service: Service, asked: CaptionRequest) -> tuple[str, Any]:
    """Return kind and raw content of the item."""
    given = {name: value for name in (*KINDS, "item") if (value := getattr(asked, name)) is not None}
    if len(given) != 1:
        raise RequestError(f"found {len(given)} items ({', '.join(given) or 'none'}); expected one to caption.")
    ((name, value),) = given.items()
    if name != "item":
        return name, (await decode(service, [value], name))[0]
    entry = await service.searches.run(service.record, value)
    return service.index.modalities[entry.modality], entry.text if entry.text is not None else entry.path
