"""Every error that LightCRL raises on purpose: one tree, one class per kind of mistake.

A message says what was found, what was expected and what to do. The command line prints the message alone and exits
with `exit_code`; a traceback appears only with `--debug`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar


class LightCRLError(Exception):
    """The root: catch it to catch whatever LightCRL refuses."""

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes: made again without their constructors, whose arguments are not kept."""
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[LightCRLError], args: tuple[Any, ...]) -> LightCRLError:
    error = kind.__new__(kind)
    error.args = args
    return error


def first_line(error: Exception) -> str:
    """What an error says first, as a sentence.

    >>> first_line(ValueError("it broke\\nbadly"))
    'it broke.'
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."


class UnknownNameError(LightCRLError):
    """A name that is not in a table; says the nearest one."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)
        near = get_close_matches(name, self.known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {what} {name!r}.{hint} Known: {', '.join(self.known)}.")


class RecipeError(LightCRLError):
    """A recipe that cannot be read or does not hold together."""


class MissingExtraError(LightCRLError):
    """An optional dependency that is not installed; carries the pip line."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed. Run: pip install 'lightcrl[{extra}]'")


class DataError(LightCRLError):
    """Data that cannot be used as it stands."""


class EmptyDatasetError(DataError):
    """Nothing to work with: no groups, or none left in a split."""


class TooManyRejectedError(DataError):
    """More items set aside than the recipe allows."""


class ItemError(DataError):
    """One item that cannot be read. Extraction sets it aside and goes on; `reason` is what the summary counts."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


class ModalityError(LightCRLError):
    """A modality that the data, the recipe or the model does not have."""


class EncoderError(LightCRLError):
    """An encoder that cannot do what the recipe asks of it."""


class EncoderNotFoundError(EncoderError):
    """An encoder that is neither a local folder nor reachable on the hub."""


class ShapeError(LightCRLError):
    """Tensors whose sizes do not fit: says both."""


class StoreError(LightCRLError):
    """A feature store that cannot be used."""


class StaleStoreError(StoreError):
    """A store made by another encoder or from other data: names both fingerprints."""


class TornStoreError(StoreError):
    """A store with a missing, short or altered file: names both digests."""


class CheckpointError(LightCRLError):
    """A checkpoint that is tampered with, torn, or of a newer format."""


class TrainingError(LightCRLError):
    """Training that cannot start or go on."""


class DivergedError(TrainingError):
    """The loss is not a number; the last good checkpoint is kept."""


class ProcessError(TrainingError):
    """One of several processes has ended, so the others end too; the last checkpoint is kept."""


class StorageError(LightCRLError):
    """The disk is full, or a folder or an object store cannot be read or written."""


class LockedError(StorageError):
    """A folder that another process is writing: says which, where and since when."""


class EngineError(LightCRLError):
    """The machines that encode cannot be reached, or cannot do what is asked of them."""


class ForeignModelError(StoreError):
    """Vectors or queries of another model than that of the index: names both fingerprints."""


class QueryError(LightCRLError):
    """A query that an index cannot answer: an unknown id, or parts that cancel each other."""


class FilterError(QueryError):
    """A filter that is no condition on items, asks for more than reading them, or takes too long."""


class RequestError(LightCRLError):
    """A request that the server refuses; `status` is HTTP's."""

    status: ClassVar[int] = 400


class AccessError(RequestError):
    """A request without a key, or with one that is not in the file of keys."""

    status = 401


class ReadOnlyError(RequestError):
    """A request that changes an index which is served to be read, or that comes from another site's page."""

    status = 403


class UnknownItemError(RequestError):
    """An id, or content, that is not there."""

    status = 404


class SlowRequestError(RequestError):
    """A request whose body does not come."""

    status = 408


class TooLargeError(RequestError):
    """A body, picture, sound or text above the server's limits: says both sizes."""

    status = 413


class MediaTypeError(RequestError):
    """A body of another type than the endpoint reads."""

    status = 415


class BusyError(RequestError):
    """More work waiting than the server takes; `retry` is after how many seconds to ask again."""

    status = 429

    def __init__(self, message: str, retry: int = 1) -> None:
        self.retry = retry
        super().__init__(message)


class NotReadyError(RequestError):
    """A server that is still warming up, or that could not."""

    status = 503
