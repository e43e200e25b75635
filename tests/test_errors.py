"""One tree of errors, whose messages say what was found, what was expected and what to do."""

from __future__ import annotations

import inspect
import pickle
import tomllib
from pathlib import Path

import pytest

from lightcrl import errors
from lightcrl.errors import (
    AccessError,
    BridgeError,
    BusyError,
    CheckpointError,
    CleaningError,
    DataError,
    DivergedError,
    EmptyDatasetError,
    EncoderError,
    EncoderNotFoundError,
    EngineError,
    FilterError,
    ForeignModelError,
    GrowthError,
    HeadError,
    HubError,
    ItemError,
    LightCRLError,
    LockedError,
    MediaTypeError,
    MissingExtraError,
    ModalityError,
    NoCutError,
    NotReadyError,
    ProcessError,
    QueryError,
    ReadOnlyError,
    RecipeError,
    RequestError,
    ShapeError,
    SlowRequestError,
    StaleStoreError,
    StorageError,
    StoreError,
    TooLargeError,
    TooManyRejectedError,
    TornStoreError,
    TrainingError,
    UnknownItemError,
    UnknownNameError,
    UnknownTaskError,
)
from lightcrl.files.remote import EXTRAS

TREE = {
    LightCRLError: [
        BridgeError, CheckpointError, CleaningError, DataError, EncoderError, EngineError, GrowthError, HeadError,
        HubError, MissingExtraError, ModalityError, QueryError, RecipeError, RequestError, ShapeError, StorageError,
        StoreError, TrainingError, UnknownNameError, UnknownTaskError,
    ],
    DataError: [EmptyDatasetError, ItemError, TooManyRejectedError],
    EncoderError: [EncoderNotFoundError, NoCutError],
    StorageError: [LockedError],
    QueryError: [FilterError],
    RequestError: [
        AccessError, BusyError, MediaTypeError, NotReadyError, ReadOnlyError, SlowRequestError, TooLargeError,
        UnknownItemError,
    ],
    StoreError: [ForeignModelError, StaleStoreError, TornStoreError],
    TrainingError: [DivergedError, ProcessError],
}  # fmt: skip


def test_the_tree_is_as_published():
    defined = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert {kind for children in TREE.values() for kind in children} | {LightCRLError} == set(defined)
    for parent, children in TREE.items():
        assert all(child.__bases__ == (parent,) for child in children)


def test_every_error_says_for_whom_it_is_and_exits_with_a_code_that_is_not_success():
    for kind in {LightCRLError, *(kind for children in TREE.values() for kind in children)}:
        assert kind.__doc__, kind
        assert 0 < kind.exit_code < 126, kind


def test_an_unknown_name_comes_with_the_nearest():
    error = UnknownNameError("method", "linaer", ["dfe", "linear"])
    assert str(error) == "unknown method 'linaer'. Did you mean 'linear'? Known: dfe, linear."
    assert (error.name, error.known) == ("linaer", ("dfe", "linear"))


def test_nothing_is_guessed_where_nothing_is_near():
    assert str(UnknownNameError("loss", "xyz", ["sigmoid"])) == "unknown loss 'xyz'. Known: sigmoid."


def test_a_missing_package_comes_with_the_pip_line_of_an_extra_that_exists():
    message = str(MissingExtraError("decoding sounds", "audio"))
    assert message == "decoding sounds needs packages that are not installed. Run: pip install 'lightcrl[audio]'"
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert {"audio", "ray", *EXTRAS.values()} <= project["optional-dependencies"].keys()


@pytest.mark.parametrize(
    "error",
    [
        DataError("broken"),
        UnknownNameError("method", "linaer", ["dfe", "linear"]),
        MissingExtraError("decoding sounds", "audio"),
        ItemError("unreadable", "bad header"),
        BusyError("many wait", 3),
    ],
)
def test_an_error_travels_between_processes(error):
    error.add_note("On another machine")
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert (str(found), vars(found)) == (str(error), vars(error))
    assert found.__notes__ == ["On another machine"]


@pytest.mark.parametrize(
    ("error", "message"),
    [(ItemError("empty text"), "empty text"), (ItemError("unreadable", "bad header"), "unreadable: bad header")],
)
def test_an_item_error_is_counted_by_its_reason(error, message):
    assert str(error) == message
    assert error.reason == message.split(":")[0]
