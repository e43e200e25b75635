"""The cut below a tower's first trained block: what enters that block is made once, and only what follows is run again.

cut = Cut(encoder, 4, prepared)     the fifth block is the first trained one; `prepared` are some items to trace
states = cut.enter(prepared)        hidden states that enter it, [B, 1 + F + T, D], without gradient
tokens = cut.leave(states)          what `encoder.forward(prepared)` returns, with gradients of the trained part

The network's own code runs on both sides. Below the cut it is stopped at the first trained block. Above the cut it runs
on blank items: its embedding returns zeros, and frozen blocks return the stored states. Masks and positions are those
of the network itself, so they follow the items' lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lightcrl.encoders.base import Encoder
from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.encoders.layout import count_slots, is_sequence, lay_out, pools_by_layer
from lightcrl.encoders.loaded import Prepared, alike
from lightcrl.errors import NoCutError
from lightcrl.tokens import TokenBatch

# Sizes are stored as two digits, so that float16 holds them exactly.
DIGIT = 1024
# Greatest difference of tokens and gradients in float32 between the trained part and the whole network.
TOLERANCE = 1e-4
# Part of the fingerprint of stored states; to be raised when the same settings give other states.
FORMAT = 1


class _Reached(Exception):  # noqa: N818 - not an error: the run ends at the cut
    """The run has reached the first trained block."""


class Cut:
    """The place in an encoder's network below which nothing is trained.

    The states of an item are tokens of width D: its sizes, then F slots of layers below the cut, then the hidden states
    that enter the first trained block.

    Attributes:
        encoder: encoder of the network.
        first: number of frozen blocks, the index of the first trained block.
        slots: 1 + F.
        dim: D, width of the states.

    Raises:
        NoCutError: this network has no such place, or needs more than its hidden states above it.
    """

    def __init__(self, encoder: HuggingFaceEncoder, first: int, sample: Sequence[Prepared]) -> None:
        """Trace the network on a `sample` of two prepared items or more, of unequal length if items have lengths."""
        loaded = encoder.loaded
        self.encoder, self.first = encoder, first
        path, length = block_list(loaded.network)
        if length != loaded.blocks or not 0 < first < length:
            raise NoCutError("the blocks are no plain stack, of which the first are frozen")
        self._blocks: Any = loaded.network.get_submodule(path)
        layers = [layer % loaded.blocks for layer in loaded.layers]
        if (is_sequence(loaded.tokens) and min(layers) < first) or ("|" in loaded.tokens and layers[0] < first):
            raise NoCutError("all positions of a frozen layer are among the tokens")
        # Frozen layers, their pools, and the places of these pools among the slots.
        pools = [] if is_sequence(loaded.tokens) else pools_by_layer(loaded.tokens.partition("|")[0], len(layers))
        self._below = [(layer, names) for layer, names in zip(layers, pools, strict=False) if layer < first]
        flat = [layer < first for layer, names in zip(layers, pools, strict=False) for _ in names]
        self._frozen = torch.tensor(flat or [False] * count_slots(loaded.tokens, len(layers)), dtype=torch.bool)
        self.slots = 1 + int(self._frozen.sum())
        self.dim = max(loaded.widths)
        self._trace(path, sample)

    def enter(self, prepared: Sequence[Prepared]) -> TokenBatch:
        """Return the states [B, 1 + F + T, D] of prepared items, without gradient.

        Raises:
            NoCutError: an item has another shape than the traced ones.
        """
        with torch.no_grad():
            groups = alike(prepared, self.encoder.loaded.pads)
            parts = [self._enter([prepared[number] for number in members]) for members in groups]
        order = torch.tensor([number for members in groups for number in members])
        return _joined(parts).rows(order.argsort())

    def leave(self, states: TokenBatch) -> TokenBatch:
        """Return tokens [B, T', D'] of the whole network from states [B, 1 + F + T, D], with gradients.

        Items of similar length are run together: most of a batch of texts would be padding.
        """
        lengths = states.lengths.tolist()
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        pieces: list[list[int]] = []
        for number in order:
            fits = bool(pieces) and len(pieces[-1]) < self.encoder.batch_size
            if fits and (self.encoder.loaded.pads or lengths[pieces[-1][0]] == lengths[number]):
                pieces[-1].append(number)
            else:
                pieces.append([number])
        parts = [self._leave(states.rows(torch.tensor(p)).places(0, max(lengths[n] for n in p))) for p in pieces]
        return _joined(parts).rows(torch.tensor(order, device=parts[0].mask.device).argsort())

    def _enter(self, items: Sequence[Prepared]) -> TokenBatch:
        encoder, network = self.encoder, self.encoder.loaded.network
        if any(self._shapes(item) != self._shape for item in items):
            raise NoCutError("items have other shapes than the first ones")
        inputs = {name: value.to(encoder.device) for name, value in encoder.batch(items).items()}
        states = self._run_to([layer + 1 for layer, _ in self._below], inputs)
        entering = states[self.first]
        sizes = torch.tensor([_sizes(item) for item in items], device=entering.device)
        digits = torch.stack([sizes // DIGIT, sizes % DIGIT], -1).flatten(1).to(entering.dtype)
        parts = [pad(digits, (0, self.dim - digits.shape[1])).unsqueeze(1)]
        if self._below:
            below = [encoder._layer(network, states[layer + 1], inputs) for layer, _ in self._below]
            laid = lay_out(below, ",".join("+".join(names) for _, names in self._below)).values
            parts.append(pad(laid, (0, self.dim - laid.shape[-1])))
        whole = torch.cat([*parts, pad(entering, (0, self.dim - entering.shape[-1]))], 1)
        real = torch.ones(entering.shape[:2], dtype=torch.bool, device=entering.device)
        if len(set(own := sizes[:, 0].tolist())) > 1:
            length = torch.arange(max(own), device=real.device) < sizes[:, :1]
            real = encoder.token_mask(network, length.to(inputs["attention_mask"].dtype), real.shape[1]).bool()
        return TokenBatch(whole, torch.cat([real.new_ones(len(items), self.slots), real], 1))

    def _leave(self, states: TokenBatch) -> TokenBatch:
        encoder = self.encoder
        weights = next(encoder.loaded.network.parameters())  # training may have moved them from the encoder's device
        states = states.to(weights.device, weights.dtype)
        digits = states.values[:, 0, :4].round().long()
        own, real = (digits[:, place] * DIGIT + digits[:, place + 1] for place in (0, 2))
        entering = states.values[:, self.slots :, : encoder.loaded.widths[self.first - 1]]
        with self._above(entering):
            tokens = encoder.tokens(self._blank(own, real))
        if not self._below:
            return tokens
        stored = states.values[:, 1 : self.slots].to(tokens.values.dtype)
        stored = pad(stored, (0, tokens.dim - self.dim))  # to the width of a trained vector, or of these layers
        slots = tokens.values[:, : len(self._frozen)].clone()
        slots[:, self._frozen.to(slots.device)] = stored
        return TokenBatch(torch.cat([slots, tokens.values[:, len(self._frozen) :]], 1), tokens.mask)

    def _run_to(self, wanted: Sequence[int], inputs: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """Return what enters the blocks `wanted` and the first trained block; the run ends there."""
        states: dict[int, Tensor] = {}

        def keep(number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states[number] = args[0] if args else kwargs["hidden_states"]
            if number == self.first:
                raise _Reached

        numbers = {*wanted, self.first}
        hooks = [self._blocks[n].register_forward_pre_hook(partial(keep, n), with_kwargs=True) for n in numbers]
        loaded = self.encoder.loaded
        try:
            self.encoder._blocks(loaded.network, loaded.accepts, inputs, hidden=False, trained=False)
        except _Reached:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        if self.first not in states or states[self.first].ndim != 3:
            raise NoCutError("its blocks do not pass on tokens")
        return states

    @contextmanager
    def _above(self, entering: Tensor) -> Iterator[None]:
        """Let frozen blocks return `entering` [B, T, D], whatever they receive, and all before them do nothing."""
        # A hook of the first trained block would be gone when a checkpoint runs that block again, backwards.
        idle: dict[nn.Module, Callable[..., Any]] = {
            block: partial(_give, (entering, *[None] * (count - 1)) if count else entering)
            for block, count in zip(self._blocks[: self.first], self._returned, strict=True)
        }
        for module, (shape, place) in self._stubs.items():
            size = [len(entering), *shape[1:]]
            if place:
                size[place] = entering.shape[1]
            zeros = torch.zeros(size, dtype=entering.dtype, device=entering.device)
            idle[module] = partial(_give, zeros)
        for module, forward in idle.items():
            vars(module)["forward"] = forward
        try:
            yield
        finally:
            for module in idle:
                del vars(module)["forward"]

    def _blank(self, own: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Return inputs without content for items of `own` [B] places, of which `real` [B] are not padding."""
        longest, blank = int(own.max()), {}
        for name, (shape, dtype, grows) in self._shape.items():
            size = (longest, *shape[1:]) if grows else shape
            kind = self.encoder.loaded.network.dtype if dtype.is_floating_point else dtype
            if name == "attention_mask":
                blank[name] = (torch.arange(longest, device=real.device) < real[:, None]).to(dtype)
            else:
                zero: Tensor = torch.zeros((), dtype=kind, device=real.device)  # type: ignore[arg-type]
                blank[name] = zero.expand(len(own), *size)
        end = getattr(self.encoder, "special", None)
        if end and "input_ids" in blank:
            # CLIP looks for the token that ends a text.
            blank["input_ids"] = blank["input_ids"].clone()
            blank["input_ids"][torch.arange(len(own), device=real.device), real - 1] = end[-1]
        return blank

    def _trace(self, path: str, sample: Sequence[Prepared]) -> None:
        """Find what the network's modules return before its first block, and which of it depends on the content."""
        items = sorted(sample, key=lambda item: _sizes(item)[0])
        self._shape = self._shapes(items[0])
        outer = list(_outside(self.encoder.loaded.network, path))
        calls: list[dict[nn.Module, Any]] = []
        for item in (items[0], items[-1]):
            own, real = torch.tensor([_sizes(item)]).to(self.encoder.device).unbind(1)
            for inputs in (self.encoder.batch([item]), self._blank(own, real)):
                calls.append({})
                modules = [*outer, *self._blocks[: self.first]]
                hooks = [module.register_forward_hook(partial(_note, calls[-1])) for module in modules]
                try:
                    tokens = self._run_to([], inputs)[self.first].shape[1]
                finally:
                    for hook in hooks:
                        hook.remove()
        first, blank, last, _ = calls
        outputs = [first.get(block) for block in self._blocks[: self.first]]
        self._returned = [len(output) if isinstance(output, tuple) else 0 for output in outputs]
        self._stubs: dict[nn.Module, tuple[tuple[int, ...], int]] = {}
        for module in outer:
            made = last.get(module)
            if isinstance(made, Tensor) and made.is_floating_point() and not _equal(first[module], blank[module]):
                grows = [n for n in range(1, made.ndim) if made.shape[n] == tokens]
                moved = [n for n in grows if first[module].shape[n] != tokens]
                self._stubs[module] = (tuple(made.shape), next(iter(moved or grows), 0))

    def _shapes(self, item: Prepared) -> dict[str, tuple[tuple[int, ...], torch.dtype, bool]]:
        """Return shape, dtype and growth with the item's length of each of its inputs; 0 for a length that grows."""
        length = _sizes(item)[0]
        grows = {name: self.encoder.kind != "image" and len(value) == length for name, value in item.items()}
        return {
            name: ((0, *value.shape[1:]) if grows[name] else tuple(value.shape), value.dtype, grows[name])
            for name, value in item.items()
        }


class StateEncoder(Encoder):
    """A frozen encoder whose tokens are the states of a `Cut`."""

    sequence = True

    def __init__(self, encoder: HuggingFaceEncoder, first: int, sample: Sequence[Prepared]) -> None:
        self._cut = Cut(encoder, first, sample)
        self.kind, self.dim, self.slots = encoder.kind, self._cut.dim, self._cut.slots
        self.batch_size, self.batch_length = encoder.batch_size, encoder.batch_length
        self.origin = encoder.origin and partial(_states_again, encoder.origin, first, sample)

    def describe(self) -> Mapping[str, Any]:
        """Return the settings of the encoder and the number of its frozen blocks."""
        return {"states": FORMAT, "frozen": self._cut.first, "of": self._cut.encoder.describe()}

    def prepare(self, raw: Any) -> Prepared:
        """Return the output of the encoder's own `prepare`."""
        return self._cut.encoder.prepare(raw)  # type: ignore[no-any-return]

    def length(self, prepared: Prepared) -> int:
        """Return the encoder's own cost of an item."""
        return self._cut.encoder.length(prepared)

    def cut(self, prepared: Prepared) -> bool:
        """Return true if the encoder cuts off the end of the text."""
        return self._cut.encoder.cut(prepared)

    def encode(self, prepared: Sequence[Prepared]) -> TokenBatch:
        """Return states of prepared items; see `Cut`."""
        return self._cut.enter(prepared)


def _states_again(origin: Callable[[], Encoder], first: int, sample: Sequence[Prepared]) -> Encoder:
    encoder = origin()
    assert isinstance(encoder, HuggingFaceEncoder)  # as when it was made
    return StateEncoder(encoder, first, sample)


def check_cut(encoder: HuggingFaceEncoder, cut: Cut, sample: Sequence[Prepared]) -> None:
    """Compare tokens and gradients of the trained part with those of the whole network, on a sample of items.

    Raises:
        NoCutError: they differ.
    """
    results = []
    for run in (encoder.forward, lambda items: cut.leave(cut.enter(items))):
        weights = [p for p in encoder.loaded.network.parameters() if p.requires_grad]
        try:
            tokens = run(sample)
            values = tokens.values[tokens.mask]
            gradients = torch.autograd.grad(values.square().mean(), weights, allow_unused=True)
        except Exception as error:  # the model's code may raise any exception
            raise NoCutError(f"its trained part does not run alone ({type(error).__name__})") from error
        results.append([values.detach(), *(torch.zeros(1) if g is None else g for g in gradients)])
    largest = max(float(gradient.abs().max()) for gradient in results[0][1:])
    for whole, part in zip(*results, strict=True):
        scale = float(whole.abs().max()) if whole is results[0][0] else largest
        if whole.shape != part.shape or float((whole - part).abs().max()) > TOLERANCE * scale:
            raise NoCutError("its trained part alone gives other tokens or gradients than the whole network")


def block_list(network: nn.Module) -> tuple[str, int]:
    """Return name and length of a network's longest list of modules, the outermost of equal ones."""
    lists = [(name, len(module)) for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda entry: entry[1], default=("", 0))


def _sizes(item: Prepared) -> tuple[int, int]:
    """Return the number of places of an item along its length, and of those that are not padding."""
    mask = item.get("attention_mask")
    if mask is None:
        length = len(next(iter(item.values())))
        return length, length
    real = int(mask.sum())
    if not bool(mask[:real].all()):
        raise NoCutError("padding comes before or between the content")
    return len(mask), real


def _outside(module: nn.Module, path: str) -> Iterator[nn.Module]:
    """Yield the largest modules of a network that do not contain the one at `path`."""
    name, _, rest = path.partition(".")
    for other, child in module.named_children():
        if other != name:
            yield child
        elif rest:
            yield from _outside(child, rest)


def _note(calls: dict[nn.Module, Any], module: nn.Module, args: Any, output: Any) -> None:
    calls[module] = output


def _equal(output: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and output.shape == other.shape and bool((output == other).all())


def _give(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


def _joined(parts: Sequence[TokenBatch]) -> TokenBatch:
    """Return the items of several batches in one, padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.mask.shape[1] for part in parts)
    missing = [longest - part.mask.shape[1] for part in parts]
    values = [pad(part.values, (0, 0, 0, more)) for part, more in zip(parts, missing, strict=True)]
    masks = [pad(part.mask, (0, more)) for part, more in zip(parts, missing, strict=True)]
    return TokenBatch(torch.cat(values), torch.cat(masks))
