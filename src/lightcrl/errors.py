"""The errors that LightCRL raises deliberately: a single tree, with a class per kind of mistake.

A message says what was found, what was expected and what to do. The command line prints only the message and exits
with `exit_code`; a traceback appears only with `--debug`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar


class LightCRLError(Exception):
    """The root of all errors of LightCRL."""

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the constructor, whose arguments are not kept: errors travel between processes."""
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[LightCRLError], args: tuple[Any, ...]) -> LightCRLError:
    error = kind.__new__(kind)
    error.args = args
    return error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, as a sentence.

    >>> first_line(ValueError("it broke\\nbadly"))
    'it broke.'
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."


class UnknownNameError(LightCRLError):
    """A name that is not in a table; the message has the nearest name."""

    def __init__(self, what: str, name: str, names: Iterable[str]) -> None:
        self.name, self.known = name, tuple(names)
        near = get_close_matches(name, self.known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {what} {name!r}.{hint} Known: {', '.join(self.known)}.")


class RecipeError(LightCRLError):
    """A recipe that is unreadable or inconsistent."""


class MissingExtraError(LightCRLError):
    """An optional dependency that is not installed; the message has the pip command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed. Run: pip install 'lightcrl[{extra}]'")


class UnknownTaskError(LightCRLError):
    """A task or benchmark that another project does not have; the message has its nearest name."""


class DataError(LightCRLError):
    """Data that is unusable in its present form."""


class EmptyDatasetError(DataError):
    """A data set without groups, or a split without groups."""


class TooManyRejectedError(DataError):
    """A share of rejected items above the recipe's limit."""


class ItemError(DataError):
    """An unreadable item. Extraction sets it aside and continues; `reason` is counted in the summary."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


class ModalityError(LightCRLError):
    """A modality that is missing in the data, the recipe or the model."""


class EncoderError(LightCRLError):
    """An encoder that cannot fulfil the recipe."""


class NoCutError(EncoderError):
    """The trained part of an encoder cannot be run alone; the message is the reason, in a few words."""


class EncoderNotFoundError(EncoderError):
    """An encoder that is neither a local folder nor reachable on the hub."""


class ShapeError(LightCRLError):
    """Tensors of mismatched sizes; the message has both."""


class StoreError(LightCRLError):
    """An unusable feature store."""


class StaleStoreError(StoreError):
    """A store made by another encoder or from other data; the message has both fingerprints."""


class TornStoreError(StoreError):
    """A store with a missing, short or altered file; the message has both digests."""


class CheckpointError(LightCRLError):
    """A checkpoint that is tampered with, torn, or of a newer format."""


class HubError(LightCRLError):
    """A model that cannot be pushed to the hub."""


class GrowthError(LightCRLError):
    """A model that cannot be extended as asked."""


class HeadError(LightCRLError):
    """A head that does not fit the space or the features, or that the model lacks."""


class BridgeError(LightCRLError):
    """A model of another project that does not fit."""


class CleaningError(LightCRLError):
    """Data that cannot be cleaned as asked."""


class TrainingError(LightCRLError):
    """A training that cannot start or continue."""


class DivergedError(TrainingError):
    """A loss that is not a number; the last good checkpoint is kept."""


class ProcessError(TrainingError):
    """The end of one of several processes, after which the others end too; the last checkpoint is kept."""


class StorageError(LightCRLError):
    """A full disk, or a folder or an object store that is not readable or writable."""


class LockedError(StorageError):
    """A folder that another process writes to; the message names the process, its machine and its start."""


class EngineError(LightCRLError):
    """Encoding machines that are unreachable, or cannot fulfil the settings."""


class ForeignModelError(StoreError):
    """Vectors or queries of another model than that of the index; the message names both fingerprints."""


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
    """A body, picture, sound, text or number of items above the server's limits: says both sizes."""

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
