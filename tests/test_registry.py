"""Tables: a name on the left, the thing on the right, imported when asked for."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict

import pytest

from lightcrl.data import SOURCES
from lightcrl.encoders import BUILTIN, ENCODERS
from lightcrl.errors import LightCRLError, UnknownNameError
from lightcrl.losses import LOSSES
from lightcrl.methods import METHODS
from lightcrl.methods.fusion import OPERATIONS
from lightcrl.registry import Table, import_object
from lightcrl.tasks.spec import TASKS

FAMILIES = {table.what: table for table in (BUILTIN, ENCODERS, LOSSES, METHODS, OPERATIONS, SOURCES, TASKS)}


@pytest.mark.parametrize("table", FAMILIES.values(), ids=FAMILIES)
def test_every_member_of_every_table_is_there_and_names_one_thing(table):
    members = [table.load(name) for name in table]
    assert all(callable(member) for member in members)
    assert len(set(members)) == len(members) == len(table) > 0


def test_a_table_is_a_mapping_in_the_order_given():
    table = Table("shape", {"square": "math:sqrt", "floor": "math:floor"})
    assert list(table.items()) == [("square", "math:sqrt"), ("floor", "math:floor")]
    assert "floor" in table
    assert "math:floor" not in table
    assert (len(table), table["floor"]) == (2, "math:floor")


def test_a_table_keeps_what_it_was_given_even_if_that_changes_later():
    entries = {"floor": "math:floor"}
    table = Table("shape", entries)
    entries.clear()
    assert list(table) == ["floor"]


def test_nothing_is_imported_before_it_is_asked_for():
    sys.modules.pop("this", None)
    table = Table("poem", {"zen": "this:s", "broken": "no_such_module:x"})
    assert list(table) == ["zen", "broken"]
    assert "this" not in sys.modules


def test_the_users_own_thing_is_named_by_its_module():
    assert Table("shape", {}).load("collections:OrderedDict") is OrderedDict
    assert import_object("math:pi") == math.pi


@pytest.mark.parametrize("ask", [lambda table: table["flor"], lambda table: table.load("flor")], ids=["[]", "load"])
def test_an_unknown_name_is_answered_with_the_nearest_and_all_known(ask):
    with pytest.raises(UnknownNameError, match=r"^unknown shape 'flor'\. Did you mean 'floor'\? Known: sqrt, floor\.$"):
        ask(Table("shape", {"sqrt": "math:sqrt", "floor": "math:floor"}))


@pytest.mark.parametrize("path", ["no_such_module:x", "no_such_module", ":floor", "", ".math:floor"])
def test_a_module_that_cannot_be_imported_is_named_with_what_was_expected(path):
    with pytest.raises(LightCRLError, match=r"^cannot import .*package\.module:Class") as error:
        import_object(path)
    assert repr(path) in str(error.value)


@pytest.mark.parametrize(("path", "found"), [("math:flor", "'math' has no 'flor'"), ("math", "'math' has no ''")])
def test_a_module_without_the_attribute_is_named(path, found):
    with pytest.raises(LightCRLError, match=found):
        import_object(path)
