"""The common base of encoders of the transformers library: loading and running a model."""

from __future__ import annotations

import inspect
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightcrl.encoders.base import Choices, Encoder, EncoderSpec, Slot, pick_device
from lightcrl.encoders.files import CODE, FILES, SETTINGS, find_folder, folder_digest, quiet
from lightcrl.encoders.layout import (
    Layer,
    choose_layers,
    choose_tokens,
    count_slots,
    describe_layout,
    every_layer,
    every_pool,
    from_the_end,
    lay_out,
    own_vectors,
    slots_of,
)
from lightcrl.encoders.loaded import UNUSED, Loaded, Prepared, alike, attends, same
from lightcrl.encoders.sentence_transformers import check_vector, read_sentence_model
from lightcrl.encoders.trained import DUAL, NAME, TrainedVector, projects
from lightcrl.errors import EncoderError
from lightcrl.machine import multiplies_bfloat16
from lightcrl.tokens import TokenBatch

# Part of every fingerprint; to be raised when the same files and settings give other tokens.
FORMAT = 1


class HuggingFaceEncoder(Encoder):
    """A model of the transformers library.

    Cheap steps (locating the files, loading the tokenizer or image processor) happen at once; the weights are loaded
    on demand, so that a warm feature store can be used on a machine without room for the model.

    Raises:
        EncoderNotFoundError: the model is neither a local folder nor reachable on the hub.
        EncoderError: files cannot be loaded, or settings are impossible for this model.
    """

    # The part of a dual encoder such as CLIP that encodes these items.
    tower: ClassVar[str]
    # The class of `transformers` that preprocesses these items, and its name for people.
    processor_class: ClassVar[tuple[str, str]]
    processor_options: ClassVar[Mapping[str, Any]] = {}
    # `batch_size` and `batch_length` on a CPU, then elsewhere: more than fills a cache is no faster (docs/LOG.md).
    batches: ClassVar[tuple[tuple[int, float], tuple[int, float]]]
    # Leading tokens of a text that are not pooled, and inputs that the model does not receive.
    skip: int = 0
    unseen: frozenset[str] = frozenset()

    def __init__(self, spec: EncoderSpec) -> None:
        self.kind = spec.kind
        self.device = pick_device(spec.device)
        root = find_folder(spec.model, spec.revision, code=spec.trust_remote_code, weights=spec.weights == "pretrained")
        self.sentence = read_sentence_model(root, spec.kind, spec.prompt)
        self.folder = self.sentence.folder if self.sentence else root
        self.spec = spec
        self.config = self._from_pretrained("AutoConfig")
        if self.sentence:
            check_vector(spec, self.sentence, self.config)
        if spec.dtype == "auto":
            pays = spec.weights == "pretrained" and attends(self.config) and multiplies_bfloat16(self.device)
            self.spec = spec.model_copy(update={"dtype": "bfloat16" if pays else "float32"})
        most, length = self.batches[self.device.type != "cpu"]
        if spec.batch_size == "auto":
            self.batch_size, self.batch_length = most, length
        else:
            self.batch_size = spec.batch_size
        self.processor = self._from_pretrained(self.processor_class[0], **self.processor_options)
        # "auto" is resolved here, so that all machines compute alike; each chooses its own device.
        self.origin = partial(type(self), self.spec)
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None
        self._tuned: str | None = None

    @abstractmethod
    def trial(self) -> list[Prepared]:
        """Return two prepared items, the first no longer than the second, for a trial of the model's shapes."""

    def token_mask(self, network: Any, mask: Tensor, tokens: int) -> Tensor:
        """Return the mask [B, tokens] of the model's tokens from the mask [B, N] of its input."""
        return mask

    def places(self, network: torch.nn.Module, layer: Tensor, inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Return `cls`, `prefix` and `grid` of a `Layer` with values [B, T, D]."""
        return {}

    def choices(self) -> Choices:
        """Return every pool of at most twelve layers; their encoder shares this encoder's weights."""
        loaded = self.loaded

        def settle(layers: Sequence[int] | str, tokens: str) -> tuple[Slot, ...]:
            kept = from_the_end(choose_layers(layers, loaded.widths), loaded.blocks)
            own = loaded.own if kept[0] == -1 else None
            return slots_of(kept, choose_tokens(tokens, self.kind, loaded.last, len(kept), own).partition("|")[0])

        pooled = loaded.tokens != "all" and not loaded.tokens.startswith("grid:")
        chosen = settle(self.spec.layers, self.spec.tokens) if pooled else None
        auto = settle("auto", "auto")
        layers = every_layer(loaded.widths, [slot.layer for slot in chosen or ()])
        tokens = every_pool(loaded.last.cls, {slot.pool for slot in (*auto, *(chosen or ()))}, len(layers))
        slots = slots_of(layers, tokens)
        vector = [] if loaded.last.trained is None else [loaded.last.trained.shape[-1]]
        dim = max(*loaded.widths, *vector) if Slot(-1, "trained") in slots else max(loaded.widths)
        wide = copy(self)
        wide.spec, wide.origin = self.spec.model_copy(update={"layers": layers, "tokens": tokens}), None
        wide._loaded = replace(loaded, layers=layers, tokens=tokens, dim=dim, slots=len(slots), sequence=False)
        return Choices(wide, slots, auto, chosen, loaded.tokens.partition("|")[2])

    @property
    def loaded(self) -> Loaded:
        """The model, loaded on first use."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    @property
    def dim(self) -> int:  # type: ignore[override]
        """D, the width of a token."""
        return self.loaded.dim

    @property
    def slots(self) -> int:  # type: ignore[override]
        """Number of tokens with a fixed meaning per item."""
        return self.loaded.slots

    @property
    def sequence(self) -> bool:  # type: ignore[override]
        """True if words, patches or segments follow the slots."""
        return self.loaded.sequence

    @cached_property
    def _files(self) -> str:
        files = FILES if self.spec.weights == "pretrained" else SETTINGS
        return folder_digest(self.folder, (*files, *CODE) if self.spec.trust_remote_code else files)

    def describe(self) -> Mapping[str, Any]:
        """Return digests of the model's files, independent of their location, and all settings of the tokens."""
        return {
            "encoder": "transformers",
            "format": FORMAT,
            "kind": self.kind,
            "files": self._files,
            "dtype": self.spec.dtype,
            **({"weights": self.spec.weights} if self.spec.weights != "pretrained" else {}),
            **({"tuned": self._tuned} if self._tuned is not None else {}),
            **({"sentence": self.sentence.describe()} if self.sentence and self._reads_sentence else {}),
            **({"projected": True} if self._projects else {}),
            **describe_layout(self.spec.layers, self.spec.tokens, self.kind),
        }

    def in_float32(self) -> HuggingFaceEncoder:
        """Return this encoder with products in float32; itself if it already has them."""
        if self.spec.dtype == "float32":
            return self
        return type(self)(self.spec.model_copy(update={"dtype": "float32"}))

    def with_network(self, network: torch.nn.Module, mark: str | None = None) -> HuggingFaceEncoder:
        """Return this encoder with other weights of the same shapes; `mark` identifies them in its fingerprint."""
        changed = copy(self)
        changed._loaded, changed._tuned, changed.origin = replace(self.loaded, network=network), mark, None
        return changed

    def encode(self, prepared: Sequence[Prepared]) -> TokenBatch:
        """Return tokens [B, T, D] float32; items that would affect each other in a batch are run separately."""
        with torch.inference_mode():
            tokens = self.forward(prepared)
        # Copies outside of inference mode can be used in training. Some models pad every item to a fixed length.
        longest = int(tokens.lengths.max())
        return TokenBatch(tokens.values[:, :longest].clone(), tokens.mask[:, :longest].clone())

    def own_vectors(self, tokens: TokenBatch) -> Tensor:
        """Return the vectors that the model was trained to give, if they are known and follow from the tokens.

        Otherwise see `layout.own_vectors`: for a text, the masked mean of the last layer.
        """
        loaded = self.loaded
        layers = from_the_end(loaded.layers, loaded.blocks)
        vector: TrainedVector | None = getattr(loaded.network, NAME, None)
        if vector is not None and loaded.last.trained is not None:
            widths, dim = [loaded.widths[layer] for layer in layers], loaded.last.trained.shape[-1]
            made = vector.from_tokens(
                tokens.to(next(loaded.network.parameters()).device), loaded.tokens, layers, widths, dim
            )
            if made is not None:
                return made.to(tokens.values.device)
        return own_vectors(tokens, loaded.tokens, layers)

    def forward(self, prepared: Sequence[Prepared]) -> TokenBatch:
        """Encode with gradients; see `encode`."""
        groups = alike(prepared, self.loaded.pads)
        parts = [self.tokens(self.batch([prepared[number] for number in members])) for members in groups]
        if len(parts) == 1:
            return parts[0]
        ragged = [item for part in parts for item in part.ragged()]
        order = torch.tensor([number for members in groups for number in members])
        return TokenBatch.from_ragged(ragged).rows(order.argsort())

    def tokens(self, inputs: Mapping[str, Tensor]) -> TokenBatch:
        """Return tokens [B, T, D] of batched inputs by name, as from `prepare`, with gradients."""
        loaded = self.loaded
        last_only = all(layer in (-1, loaded.blocks - 1) for layer in loaded.layers)
        trained = "trained" in loaded.tokens
        blocks = self._blocks(loaded.network, loaded.accepts, inputs, hidden=not last_only, trained=trained)
        return lay_out([blocks[-1 if last_only else layer] for layer in loaded.layers], loaded.tokens)

    def batch(self, items: Sequence[Prepared]) -> dict[str, Tensor]:
        """Batch prepared items of similar shape, padded at the end, as input of `tokens`."""
        pad_id = getattr(self.processor, "pad_token_id", None) or 0
        return {
            name: pad_sequence([item[name] for item in items], True, pad_id if name == "input_ids" else 0)
            for name in items[0]
        }

    def _run(self, network: Any, accepts: frozenset[str], items: Sequence[Prepared]) -> list[Layer]:
        """Return the outputs of the model's blocks, first to last."""
        return self._blocks(network, accepts, self.batch(items), hidden=True, trained=True)

    def _blocks(
        self, network: Any, accepts: frozenset[str], inputs: Mapping[str, Tensor], hidden: bool, trained: bool
    ) -> list[Layer]:
        """Return outputs of the model's blocks, first to last, or the last only, with the trained vector if wanted."""
        # A tower lies where it is trained, wherever its encoder was.
        inputs = {
            name: value.to(network.device, network.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        seen = {name: value for name, value in inputs.items() if name in accepts and name not in self.unseen}
        output = network(**seen, output_hidden_states=hidden)
        final = output.last_hidden_state
        states = list(output.hidden_states) if hidden else []
        # Some CNNs end in a stage that is not among their hidden states; all others begin with the embedding, which
        # is no block, and end before the final norm.
        states = [*(states if states and states[-1].shape != final.shape else states[1:-1]), final]
        layers = [self._layer(network, state, inputs) for state in states]
        if trained and (vector := getattr(network, NAME, None)) is not None:
            made = vector(layers[-1], getattr(output, "pooler_output", None))
            layers[-1] = replace(layers[-1], trained=made)
        return layers

    def _layer(self, network: Any, state: Tensor, inputs: Mapping[str, Tensor]) -> Layer:
        if state.ndim == 4:
            values = state.flatten(2).mT
            places: Mapping[str, Any] = {"grid": tuple(state.shape[2:])} if self.kind == "image" else {}
        else:
            values, places = state, self.places(network, state, inputs)
        tokens, mask = values.shape[1], inputs.get("attention_mask")
        real = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Layer(values, real if mask is None else self.token_mask(network, mask, tokens).bool(), **places)

    def _load(self) -> Loaded:
        # Weights from inference mode could not be trained.
        with torch.inference_mode(False):
            network, accepts = self._load_network()
        short, long = self.trial()
        with torch.inference_mode():
            try:
                alone = self._run(network, accepts, [short])
            except Exception as error:  # the model's code may raise any exception
                raise EncoderError(f"{self.spec.model!r} does not work as {self.kind} encoder: {error}") from error
            if not all(torch.isfinite(block.values).all() for block in alone):
                raise EncoderError(
                    f"{self.spec.model!r} gives hidden states that are not finite in {self.spec.dtype}. If the "
                    "weights are sound, dtype = 'bfloat16' or 'float32' helps."
                )
            if not same(alone, self._run(network, accepts, [short])):
                raise EncoderError(
                    f"{self.spec.model!r} gives other hidden states each time for the same item (random masking?), "
                    "so its outputs cannot be kept. Use another model."
                )
            pads = "attention_mask" in short and same(alone, self._run(network, accepts, [short, long]))
            widths = tuple(block.values.shape[-1] for block in alone)
            layers = choose_layers(self.spec.layers, widths)
            vector = getattr(network, NAME, None)
            if vector is not None:
                vector.prefixed = alone[-1].prefix > 0
            own = vector and vector.as_pool(alone[-1].cls)
            first = own if layers[0] in (-1, len(alone) - 1) else None
            tokens = choose_tokens(self.spec.tokens, self.kind, alone[-1], len(layers), first)
            laid = lay_out([alone[layer] for layer in layers], tokens)
        slots = count_slots(tokens, len(layers))
        sequence = "|" in tokens
        size = (len(alone), layers, tokens, pads, laid.dim, slots, sequence, widths)
        return Loaded(network, accepts, *size, alone[-1], own)

    def _load_network(self) -> tuple[torch.nn.Module, frozenset[str]]:
        # New heads draw from the global generator, which belongs to the user.
        with torch.random.fork_rng(devices=[]):
            model, absent = self._pretrained() if self.spec.weights == "pretrained" else (self._random(), set())
        network = getattr(model, self.tower, model)
        if getattr(network.config, "is_encoder_decoder", False):
            network = network.get_encoder()
        if (vector := self._vector(model)) is not None:
            network.add_module(NAME, vector)
        kept = {id(weight) for weight in network.state_dict(keep_vars=True).values()}
        names = {name for name, weight in model.state_dict(keep_vars=True).items() if id(weight) in kept}
        # A dual encoder's pooled output comes from its head.
        unused = {name for name in names if UNUSED.search(name) and not (self._projects and ".head." in f".{name}")}
        missing = sorted((names & absent) - unused)
        if missing:
            raise EncoderError(
                f"{self.spec.model!r} lacks {len(missing)} of the model's {len(names)} weights, which would be random: "
                f"{', '.join(missing[:3])}, ... Expected the weights of a {type(model).__name__}."
            )
        network.eval().requires_grad_(False).to(self.device)
        return network, frozenset(inspect.signature(network.forward).parameters)

    @property
    def _reads_sentence(self) -> bool:
        """True if tokens depend on settings beside the transformer's own."""
        if self.sentence is None:
            return False
        if self.spec.pools == "auto":
            return self.kind != "text" or not self.sentence.plain
        return self.sentence.lower_case or "trained" in self.spec.tokens

    @property
    def _projects(self) -> bool:
        """Return true if the model itself computes the vector that it was trained to give."""
        pools = self.sentence is not None and bool(self.sentence.poolings)
        return self.spec.weights == "pretrained" and not pools and projects(self.config, self.kind)

    def _vector(self, model: Any) -> TrainedVector | None:
        """Return the module of the vector that the model was trained to give, if it is known."""
        sentence = self.sentence
        if self.spec.weights != "pretrained" or (sentence and sentence.unread):
            return None
        after, dim = (sentence.load_modules(), sentence.dim) if sentence else ([], None)
        if self._projects:
            name = DUAL[self.config.model_type][self.kind]
            return TrainedVector((), [*([getattr(model, name)] if name else []), *after], dim=dim)
        if sentence is None or not sentence.poolings:
            return None
        return TrainedVector(sentence.poolings, after, self.skip, dim)

    def _pretrained(self) -> tuple[Any, set[str]]:
        """Load the complete model; return it and the names of weights that its files lack."""
        # On a CPU torch's fused attention is the slower one in bfloat16 (docs/LOG.md).
        plain = self.spec.dtype == "bfloat16" and self.device.type == "cpu"
        model, report = self._from_pretrained(
            "AutoModel",
            dtype=getattr(torch, self.spec.dtype),
            use_safetensors=True,
            output_loading_info=True,
            **({"attn_implementation": "eager"} if plain else {}),
        )
        return model, set(report["missing_keys"])

    def _random(self) -> Any:
        """Make the complete model with random weights."""
        from transformers import AutoModel

        torch.manual_seed(0)
        with quiet():
            return AutoModel.from_config(
                self.config, dtype=getattr(torch, self.spec.dtype), trust_remote_code=self.spec.trust_remote_code
            )

    def _from_pretrained(self, class_name: str, **options: Any) -> Any:
        import transformers

        try:
            with quiet():
                return getattr(transformers, class_name).from_pretrained(
                    self.folder, trust_remote_code=self.spec.trust_remote_code, **options
                )
        except Exception as error:  # the library has no common class of errors; every failure means the same here
            wanted = self.processor_class[1] if class_name == self.processor_class[0] else f"model ({class_name})"
            text = str(error).strip()
            hint = " If you trust its authors, set trust_remote_code = true." if "trust_remote_code" in text else ""
            raise EncoderError(
                f"cannot load the {wanted} of {self.spec.model!r} as a {self.kind} encoder: "
                f"{text.splitlines()[0] if text else type(error).__name__}{hint}"
            ) from error
