"""The gradient of a batch, from stored features or from raw items through a tower.

With a tower, the batch goes through it in chunks, and the gradient is still that of the whole batch (GradCache, arXiv
2101.06983): embeddings are computed chunk by chunk without a graph, the loss gives the gradient of each embedding, and
every chunk is embedded once more to propagate its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lightcrl.encoders.base import fingerprint
from lightcrl.features.live import LiveStore
from lightcrl.features.reading import Excerpt
from lightcrl.features.store import FeatureStore
from lightcrl.features.table import Features
from lightcrl.features.views import ViewedStore
from lightcrl.losses import LOSSES, Loss, info_nce
from lightcrl.machine import seed_draws
from lightcrl.methods import Method, Step
from lightcrl.processes import gather_rows, share, sum_gradients
from lightcrl.tokens import TokenBatch
from lightcrl.training.batches import Batch
from lightcrl.training.spec import TrainingSpec

A = TypeVar("A")
B = TypeVar("B")

# Least number of items per pass through a tower.
CHUNK = 64


@dataclass(frozen=True)
class Stepper:
    """Losses and gradients of batches.

    Attributes:
        method: the network.
        features: source of the frozen modalities.
        live: modalities with a tower.
        accelerator: device, precision, processes.
        spec: training settings.
    """

    method: Method
    features: Features
    live: Mapping[str, LiveStore]
    accelerator: Accelerator
    spec: TrainingSpec

    def modules(self) -> dict[str, nn.Module]:
        """Return all trained modules: the method under the empty name, each tower under `towers.<modality>.`."""
        towers = {f"towers.{name}.": store.tower.network for name, store in sorted(self.live.items())}
        return {"": self.method, **towers}

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return trained parameters by name."""
        for prefix, module in self.modules().items():
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    yield prefix + name, parameter

    def train(self, mode: bool = True) -> None:
        """Switch training mode of the method and the towers on or off."""
        for module in (self.method, *(store.tower for store in self.live.values())):
            module.train(mode)

    def read(self, batches: Iterable[Batch], *, whole: bool = False, stored: bool = False) -> Iterator[Batch]:
        """Yield the batches with their stored tokens, which are gathered while the previous batch is in use.

        The tokens are those of this process' share of each batch, or of the `whole` batch. Modalities with a tower have
        none, unless `stored` asks for the outputs of its initial weights.
        """
        live = frozenset(() if stored else self.live)
        return _ahead(lambda batch: self._gathered(batch, whole, live), self._windows(batches, whole, live))

    def _gathered(self, batch: Batch, whole: bool, live: frozenset[str]) -> Batch:
        tokens = dict(batch.tokens)
        for name in batch.rows.keys() - tokens.keys() - live:
            rows = self._rows(batch.rows[name], whole)
            tokens[name] = self.features.store(name).gather(rows, sequence=self.method.sequences)
        if self.accelerator.device.type == "cuda":
            tokens = {name: stored.pinned() for name, stored in tokens.items()}
        return replace(batch, tokens=tokens)

    def _windows(self, batches: Iterable[Batch], whole: bool, live: frozenset[str]) -> Iterator[Batch]:
        """Yield the batches, with tokens from stores outside memory; the next window is read while one is in use."""
        if all(store.memory for name, store in self.features.stores.items() if name not in live):
            yield from batches
            return
        windows = (list(window) for _, window in groupby(batches, key=attrgetter("window")))
        for window, excerpts in _ahead(lambda window: (window, self._excerpts(window, whole, live)), windows):
            yield from self._filled(window, excerpts, whole)
            # The next window is read while one is in use; a third window is never held.
            del window, excerpts

    def _excerpts(self, window: Sequence[Batch], whole: bool, live: frozenset[str]) -> dict[str, Excerpt]:
        """Read the rows that the batches of a window need from every store outside memory."""
        excerpts = {}
        for name, store in self.features.stores.items():
            rows = [self._rows(batch.rows[name], whole) for batch in window if name in batch.rows]
            if rows and isinstance(store, (FeatureStore, ViewedStore)) and not store.memory and name not in live:
                excerpts[name] = store.read(np.concatenate(rows), sequence=self.method.sequences)
        return excerpts

    def _filled(self, window: Sequence[Batch], excerpts: Mapping[str, Excerpt], whole: bool) -> Iterator[Batch]:
        for batch in window:
            rows = {name: self._rows(batch.rows[name], whole) for name in excerpts if name in batch.rows}
            yield replace(batch, tokens={name: excerpts[name].gather(chosen) for name, chosen in rows.items()})

    def stored(self, batch: Batch, view: int) -> Step:
        """Return the stored features of a batch from `read`, whose items are in that view."""
        return Step({name: self._stored(name, batch) for name in batch.rows}, self._groups(batch), view=view)

    def loss(self, batch: Batch, done: float, seed: int) -> Tensor:
        """Return the loss of a batch with all its activations; `seed` is the seed of the towers' randomness."""
        inputs = self._inputs(batch, seed)
        with self.accelerator.autocast():
            tokens = {name: self._tokens(name, given) for name, given in inputs.items()}
            step = Step(tokens, self._groups(batch), done, batch.rows)
            if self.method.training:
                step = self.method.augment(step)
            embeddings: dict[str, Tensor] = {name: self.method(name, tokens) for name, tokens in step.tokens.items()}
        return self._objective(embeddings, batch, step)

    def backward(self, batch: Batch, done: float, seed: int) -> Tensor:
        """Return the loss of a batch, and add its gradient to every parameter's."""
        if not self.live or all(len(rows) <= self.chunk(name) for name, rows in batch.rows.items()):
            loss = self.loss(batch, done, seed)
            self.accelerator.backward(loss)
        else:
            loss = self._backward_in_chunks(batch, done, seed)
        if self.accelerator.num_processes > 1:
            # Every process already has the whole gradient of logit scale and bias.
            sum_gradients(p for name, p in self.parameters() if not name.rpartition(".")[2].startswith("logit_"))
        return loss.detach()

    def chunk(self, modality: str) -> int:
        """Return the number of items of a modality per pass through the method, and through its tower."""
        if self.spec.chunk != "auto":
            return int(self.spec.chunk)
        stores = [self.live[modality]] if modality in self.live else self.live.values()
        return max(CHUNK, *(store.chunk for store in stores))

    def _backward_in_chunks(self, batch: Batch, done: float, seed: int) -> Tensor:
        inputs = self._inputs(batch, seed)
        chunks = [
            (name, slice(start, start + self.chunk(name)), number)
            for number, (name, given) in enumerate(sorted(inputs.items()))
            for start in range(0, len(given), self.chunk(name))
        ]

        def embed(name: str, place: slice, number: int) -> Tensor:
            seed_draws(mix(seed, number, place.start))
            given = inputs[name]
            part = given.rows(place) if isinstance(given, TokenBatch) else given[place]
            with self.accelerator.autocast():
                embedding: Tensor = self.method(name, self._tokens(name, part))
            return embedding

        with torch.no_grad():
            parts: dict[str, list[Tensor]] = {}
            for name, place, number in chunks:
                parts.setdefault(name, []).append(embed(name, place, number))
        embeddings = {name: torch.cat(given).requires_grad_() for name, given in parts.items()}
        loss = self._objective(embeddings, batch, Step({}, self._groups(batch), done))
        self.accelerator.backward(loss)
        for name, place, number in chunks:
            gradient = embeddings[name].grad
            assert gradient is not None
            self.accelerator.backward((embed(name, place, number) * gradient[place]).sum())
        return loss

    def _objective(self, embeddings: Mapping[str, Tensor], batch: Batch, step: Step) -> Tensor:
        if self.accelerator.num_processes > 1:
            embeddings = {name: gather_rows(own, len(batch.rows[name])) for name, own in embeddings.items()}
        with self.accelerator.autocast() if self.method.network_in_objective else nullcontext():
            return self.method.objective(_loss(self.spec), embeddings, step)

    def _inputs(self, batch: Batch, seed: int) -> dict[str, Any]:
        """Return stored tokens, or what the tower reads, by modality."""
        generator = np.random.default_rng(seed) if self.method.training else None
        return {
            name: self.live[name].prepare(self._rows(rows), generator)
            if name in self.live
            else self._stored(name, batch)
            for name, rows in batch.rows.items()
        }

    def _tokens(self, name: str, given: Any) -> TokenBatch:
        tokens: TokenBatch = self.live[name].tower(given) if name in self.live else given
        return tokens

    def _stored(self, name: str, batch: Batch) -> TokenBatch:
        return batch.tokens[name].to(self.accelerator.device)

    def _rows(self, rows: np.ndarray, whole: bool = False) -> np.ndarray:
        if whole:
            return rows
        return rows[share(len(rows), self.accelerator.process_index, self.accelerator.num_processes)]

    def _groups(self, batch: Batch) -> dict[str, Tensor]:
        device = self.accelerator.device
        return {modality: torch.from_numpy(numbers).to(device) for modality, numbers in batch.groups.items()}


def _ahead(work: Callable[[A], B], things: Iterable[A]) -> Iterator[B]:
    """Yield the results of `work` in order; the next result is computed in a thread while one is in use."""
    with ThreadPoolExecutor(1, "ahead") as reader:
        coming = None
        for thing in things:
            following = reader.submit(work, thing)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def parameter_groups(
    method: Method, spec: TrainingSpec, live: Mapping[str, LiveStore] | None = None
) -> list[dict[str, Any]]:
    """Return groups for AdamW: weight decay for matrices only; `share` is a group's rate relative to the method's."""
    kinds: list[tuple[nn.Module, float, float]] = [(method, float(spec.weight_decay), 1.0)]
    for _, store in sorted((live or {}).items()):
        tuning, weights = store.tower.spec, store.tower.encoder.spec.weights
        kinds.append((store.tower.network, tuning.weight_decay, tuning.rate(weights) / float(spec.learning_rate)))
    groups: list[dict[str, Any]] = []
    for module, decay, part in kinds:
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        decayed = [p for name, p in named if p.ndim >= 2 and not name.endswith("bias")]
        spared = [p for name, p in named if not (p.ndim >= 2 and not name.endswith("bias"))]
        groups += [{"params": decayed, "weight_decay": decay, "share": part}]
        groups += [{"params": spared, "weight_decay": 0.0, "share": part}]
    return groups


def mix(*numbers: int) -> int:
    """Combine several numbers into a seed."""
    return int(fingerprint(list(numbers))[:15], 16)


def _loss(spec: TrainingSpec) -> Loss:
    if spec.loss != "info_nce":
        return LOSSES.load(spec.loss)
    return partial(info_nce, label_smoothing=float(spec.label_smoothing))
