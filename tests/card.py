"""A device that is not the CPU, on a machine without one: `card:0`, which refuses to mix as CUDA does.

Its tensors are wrappers around tensors of the CPU, so every figure is that of the CPU. PrivateUse1, the key that torch
keeps for devices from outside, gives them a device of their own; `Card.__torch_dispatch__` sees every operation below
autograd. As with CUDA,

- operands lie on one device, but for numbers of no dimension on the CPU;
- what is indexed may lie on the card while the index lies on the CPU, and not the other way round;
- only `to`, `cpu` and `copy_` cross; numpy does not read the card;
- a generator belongs to its device.

Loading this module registers the device for the whole process; nothing takes it unless it is named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.utils._device
from torch.utils import backend_registration

NAME = "card"
CROSSING = {"copy_", "_to_copy"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# Each of these wants all of its tensors on one device, numbers of no dimension too.
STRICT = {"cat", "stack", "index_select", "gather", "scatter_", "embedding"}
CAST = ("mm", "bmm", "addmm", "baddbmm", "matmul", "linear", "conv2d", "conv1d")


class MixedDevicesError(RuntimeError):
    """An operation got tensors of the card and of the CPU."""


class _Hooks(torch._C._acc.PrivateUse1Hooks):
    """The device exists, and is not the accelerator that anything is put on unasked."""

    def is_available(self) -> bool:
        return False

    def has_primary_context(self, dev_id: int) -> bool:
        return False

    def is_built(self) -> bool:
        return True


class _Module(backend_registration._DummyBackendModule):
    def is_available(self) -> bool:
        return False

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        """The card's numbers are those of the CPU, whose state is set anyway."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


backend_registration._setup_privateuseone_for_python_backend(NAME, _Module(), _Hooks())
DEVICE = torch.device(NAME, 0)


class Card(torch.Tensor):
    """A tensor on the card; `held` is the tensor of the CPU with its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Card:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made: Card = torch.Tensor._make_wrapper_subclass(cls, held.size(), device=DEVICE, **layout)
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Card({self.held})"

    def __getitem__(self, place: Any) -> Any:
        return super().__getitem__(_indices(place))

    def __setitem__(self, place: Any, value: Any) -> None:
        super().__setitem__(_indices(place), value)

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy it first.")

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def _indices(place: Any) -> Any:
    """Return an index without lists, of which torch's C++ makes tensors where `__torch_dispatch__` does not see it."""
    if isinstance(place, list):
        return torch.tensor(place)
    return tuple(map(_indices, place)) if isinstance(place, tuple) else place


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`torch.utils._pytree.tree_map` for the containers that operations take and give, in a fifth of its time."""
    if isinstance(value, dict):
        return {name: _mapped(function, part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_mapped(function, part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return function(value)


def _leaves(value: Any) -> list[Any]:
    found: list[Any] = []
    _mapped(found.append, value)
    return found


@cache
def _composite(operation: Any) -> bool:
    has: bool = torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), "CompositeImplicitAutograd")
    return has


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation on the CPU, and return its results on the device where they belong."""
    if _composite(operation):
        return operation.decompose(*args, **kwargs)  # in inference mode such an operation comes whole
    name = operation.overloadpacket.__name__
    check(name, args, kwargs)
    wrapped: dict[int, Card] = {}

    def unwrap(value: Any) -> Any:
        if isinstance(value, Card):
            wrapped[id(value.held)] = value
            return value.held
        return value

    plain = name == "copy_" and not isinstance(args[0], Card)
    if (device := kwargs.get("device")) is not None:
        plain, kwargs = device.type == "cpu", {**kwargs, "device": torch.device("cpu"), "pin_memory": None}
        kwargs.pop("pin_memory") if name == "_to_copy" or "pin_memory" not in str(operation._schema) else None

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or plain:
            return value
        own = wrapped.get(id(value))
        if own is not None and own.shape != value.shape:  # `squeeze_`: the wrapper's shape follows
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.Python)):
                operation(own, *args[1:], **kwargs)
        return Card(value) if own is None else own

    done = operation(*_mapped(unwrap, args), **_mapped(unwrap, kwargs))
    with torch.inference_mode(False):  # autograd counts the versions of views also in inference mode
        return _mapped(wrap, done)


def check(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Refuse operands as CUDA does.

    Raises:
        MixedDevicesError: they lie on two devices.
    """
    leaves = _leaves((args, kwargs))
    generator = next((leaf for leaf in leaves if isinstance(leaf, torch.Generator)), None)
    if generator is not None and generator.device.type != NAME:
        raise MixedDevicesError(f"{name}: expected a {NAME!r} device type for generator but found 'cpu'.")
    if name in CROSSING:
        return
    first = args[0] if args else None
    if name in INDEXED:
        indices = {id(leaf) for leaf in _leaves(args[1])}
        if not isinstance(first, Card):
            raise MixedDevicesError(f"{name}: indices on {DEVICE} of a tensor on cpu.")
        leaves = [leaf for leaf in leaves if id(leaf) not in indices]
    plain = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Card)]
    if not any(isinstance(leaf, Card) for leaf in leaves):
        return
    changed = name.endswith("_") and isinstance(first, torch.Tensor) and not isinstance(first, Card)
    if changed or any(tensor.ndim or name in STRICT for tensor in plain):
        shapes = [list(tensor.shape) for tensor in plain]
        raise MixedDevicesError(f"{name}: expected all tensors on {DEVICE}; found tensors of shape {shapes} on cpu.")


def _made(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """What the dispatcher does not hand to `Card`: tensors that are made on the card."""
    return _run(operation, args, {**kwargs, "device": DEVICE})


_everything = torch.library.Library("_", "IMPL")
_everything.fallback(_made, "PrivateUse1")
_everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
# In C++ these make a tensor of nothing, and then change its shape.
GROWN = ("arange", "arange.start", "arange.start_step", "randperm", "randperm.generator", "eye", "eye.m", "linspace")
_grown = torch.library.Library("aten", "IMPL", "PrivateUse1")
for _name in GROWN:
    _packet, _, _overload = _name.partition(".")
    _grown.impl(_name, partial(_made, getattr(getattr(torch.ops.aten, _packet), _overload or "default")))


def _lowered(operation: Any) -> Callable[..., Any]:
    """Return an operation as autocast does it: in its dtype."""

    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME)

        def lower(value: Any) -> Any:
            lowers = isinstance(value, Card) and value.is_floating_point() and value.dtype != torch.float64
            return value.to(dtype) if lowers else value

        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return operation(*_mapped(lower, args), **_mapped(lower, kwargs))

    return run


_autocast = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
for _name in CAST:
    _autocast.impl(_name, _lowered(getattr(torch.ops.aten, _name).default))

_tensor = torch.tensor
torch.utils._device._device_constructors()  # torch keeps this table of its functions for good


def _tensor_anywhere(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
    """`torch.tensor`, whose C++ hides from `__torch_dispatch__`."""
    if device is not None and torch.device(device).type == NAME:
        return _tensor(data, *args, **kwargs).to(device)
    return _tensor(data, *args, device=device, **kwargs)


@pytest.fixture
def card(monkeypatch):
    """The name of the device; trainings take it."""
    monkeypatch.setattr(torch, "tensor", _tensor_anywhere)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", str(DEVICE))
    return str(DEVICE)
