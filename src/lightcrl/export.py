"""Export to ONNX: a graph per modality from a prepared item to its embedding, for ONNX Runtime.

    model.json        inputs and outputs of each graph, and the origin of its encoder
    image.onnx        inputs of the encoder's preprocessing (`pixel_values`) -> `vectors` [B, d]
    text.onnx         `input_ids`, `attention_mask` [B, T] -> `vectors` [B, d]
    head-matching.onnx   tokens, masks and embeddings of N pairs -> `scores` [N], for a model with this head
    image/ text/      the preprocessing's own files (tokenizer, image processor)

Only text and image models of transformers become part of a graph; for other encoders it takes tokens [B, T, D] and
mask.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lightcrl.checkpoint import Checkpoint
from lightcrl.data.base import Item
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import Encoder, EncoderSpec
from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.encoders.loaded import alike
from lightcrl.errors import CheckpointError, EncoderError, ItemError, MissingExtraError, ModalityError
from lightcrl.features import encode_items
from lightcrl.files.local import make_folder, write_json
from lightcrl.methods import Method
from lightcrl.tokens import TokenBatch

Module = TypeVar("Module", bound=nn.Module)

FORMAT = 1
MANIFEST = "model.json"
OUTPUT = "vectors"
OPSET = 20


class _Whole(nn.Module):
    """A frozen encoder's network and the method: inputs by name to unit vectors."""

    def __init__(self, encoder: HuggingFaceEncoder, method: Method, modality: str, names: Sequence[str]) -> None:
        super().__init__()
        self.network = encoder.loaded.network
        self.method = method
        self.encoder, self.modality, self.names = encoder, modality, tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        tokens = self.encoder.tokens(dict(zip(self.names, inputs, strict=True)))
        vectors: Tensor = self.method(self.modality, tokens)
        return vectors


class _Head(nn.Module):
    """The method without the encoder: tokens to unit vectors."""

    def __init__(self, method: Method, modality: str) -> None:
        super().__init__()
        self.method, self.modality = method, modality

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        vectors: Tensor = self.method(self.modality, TokenBatch(values, mask))
        return vectors


def export_onnx(
    embedder: Embedder, folder: Path | str, modalities: Sequence[str] | None = None, *, int8: bool = False
) -> Path:
    """Write the graphs of an embedder.

    Args:
        embedder: embedder whose encoders and method are exported; it is moved to the CPU.
        folder: folder of the export; it is created if needed, and files of an earlier export are replaced.
        modalities: modalities to export; all by default.
        int8: true to store the encoder's weights of matrix products in 8 bits and to quantise activations at run time
            (ONNX Runtime's dynamic quantisation); the method stays in float32. The size is about a quarter, and
            `benchmarks/serving.py` measures the error. Without effect if the encoder is not part of the graph.

    Returns:
        The folder.

    Raises:
        MissingExtraError: the extra `onnx` is not installed.
        ModalityError: the model has no such modality.
        EncoderError: torch cannot export the network of an encoder.
        StorageError: the folder is not writable.
    """
    try:
        import onnxruntime.quantization  # noqa: F401 - needed like onnxscript: the exporter writes with it
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("export to ONNX", "onnx") from error
    folder = make_folder(Path(folder))
    method, entries = _on_cpu(embedder.method), {}
    for modality in modalities if modalities is not None else embedder.modalities:
        encoder = embedder.encoder(modality)
        if isinstance(encoder, HuggingFaceEncoder):
            encoder = encoder.in_float32()  # ONNX Runtime has few products of lower precision on a CPU
        graph, inputs, dynamic = _graph(encoder, method, modality)
        path = folder / f"{modality}.onnx"
        _write(graph.eval(), inputs, dynamic, path)
        if isinstance(graph, _Whole):
            if int8:
                _quantise(path)
            graph.encoder.processor.save_pretrained(folder / modality)
        entries[modality] = {
            "graph": path.name,
            "inputs": list(inputs),
            "whole": isinstance(graph, _Whole),
            # Items of unequal length can share a batch.
            "pads": not isinstance(encoder, HuggingFaceEncoder) or encoder.loaded.pads,
            "encoder": embedder.checkpoint.encoders[modality].model_dump(mode="json", exclude_defaults=True),
            "fingerprint": embedder.encoder(modality).fingerprint,
        }
    heads = _export_heads(embedder.checkpoint, folder)
    content = {"format": FORMAT, "dim": embedder.dim, "output": OUTPUT, "int8": int8, "modalities": entries}
    write_json(folder / MANIFEST, content | ({"heads": heads} if heads else {}))
    return folder


def _export_heads(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Write the graphs of all heads, and return their entries in the manifest by file name."""
    entries = {}
    for name, saved in checkpoint.heads.items():
        for suffix, graph in checkpoint.head(name).graphs().items():
            path = folder / f"head-{name}{suffix and f'-{suffix}'}.onnx"
            _write(graph.module.eval(), graph.inputs, graph.dynamic, path, graph.output)
            entries[path.name] = {
                "head": name,
                "kind": saved.kind,
                "modalities": list(saved.modalities),
                "inputs": list(graph.inputs),
                "output": graph.output,
            }
    return entries


def _graph(encoder: Encoder, method: Method, modality: str) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """Return the module to export, inputs to trace it with, and their axes of variable length."""
    batch = torch.export.Dim("batch")
    if isinstance(encoder, HuggingFaceEncoder) and encoder.kind in ("text", "image"):
        # Neither one nor two items: the tracer takes a length of one for a constant.
        inputs = encoder.batch(encoder.trial() * 2)
        inputs = {name: value for name, value in inputs.items() if name in encoder.loaded.accepts}
        encoder = encoder.with_network(_on_cpu(encoder.loaded.network))
        longest = getattr(encoder, "max_length", None)
        axes: dict[int, Any] = {0: batch} if longest is None else {0: batch, 1: torch.export.Dim("tokens", max=longest)}
        return _Whole(encoder, method, modality, list(inputs)), inputs, dict.fromkeys(inputs, axes)
    spec = method.modalities[modality]
    fixed = spec.slots > 1 and not spec.sequence
    values = torch.zeros(3, spec.slots if fixed else spec.slots + 4, spec.dim)
    inputs = {"values": values, "mask": torch.ones(values.shape[:2], dtype=torch.bool)}
    least = {"min": spec.slots + 1} if spec.sequence else {}
    axes = {0: batch} if fixed else {0: batch, 1: torch.export.Dim("tokens", **least)}
    return _Head(method, modality), inputs, dict.fromkeys(inputs, axes)


def _on_cpu(module: Module) -> Module:
    """Return a module on the CPU, where graphs are traced: itself, or a copy if it lies elsewhere."""
    return module if next(module.parameters()).device.type == "cpu" else deepcopy(module).to("cpu")


def _write(
    graph: nn.Module, inputs: Mapping[str, Tensor], dynamic: Mapping[str, Any], path: Path, output: str = OUTPUT
) -> None:
    shapes = tuple(dynamic.values())
    reads, writes = list(inputs), [output]
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                graph,
                tuple(inputs.values()),
                dynamic_shapes=(shapes,) if isinstance(graph, _Whole) else shapes,
                strict=False,
            )
            torch.onnx.export(
                program, (), path, input_names=reads, output_names=writes, opset_version=OPSET, external_data=False
            )
    except OSError:
        raise
    except Exception as error:  # the exporters have no common class of errors; every failure means the same here
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise EncoderError(
            f"torch {torch.__version__} cannot export the graph of {path.stem!r}: {reason[0]} A newer torch and "
            "onnxscript may; --modality exports the others."
        ) from error


def _quantise(path: Path) -> None:
    """Rewrite a complete graph with the encoder's weights in 8 bits, with a scale for each output of a product."""
    import onnx
    from onnxruntime import quantization

    model = onnx.load(path)
    weights = {weight.name: weight for weight in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        # The quantiser transposes a weight at each use, so a weight shared by several parts gets copies first.
        if node.op_type == "Gemm" and node.input[1] in weights and uses[node.input[1]] > 1:
            own = model.graph.initializer.add()
            own.CopyFrom(weights[node.input[1]])
            own.name = node.input[1] = f"{own.name}/{node.name}"
    onnx.save(model, path)
    scopes = {
        node.name: next((entry.value for entry in node.metadata_props if entry.key.endswith("name_scopes")), "")
        for node in model.graph.node
    }
    with _quiet():
        quantization.quantize_dynamic(
            path,
            path,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # The method is small, and in 8 bits it errs more than the whole encoder.
            nodes_to_exclude=[name for name, scope in scopes.items() if "'network'" not in scope],
            # The type of tensors that shape inference does not reach.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' prints, logs and warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class ExportedEmbedder:
    """An export in use: raw items to unit vectors, as in `Embedder`, by ONNX Runtime.

    Attributes:
        dim: d, width of an embedding.
        modalities: modality to kind of item.
    """

    def __init__(self, folder: Path | str, *, threads: int = 0) -> None:
        """Open an export; `threads` of 0 is a thread per core.

        Raises:
            MissingExtraError: the extra `onnx` is not installed.
            CheckpointError: the folder has no export, or one of a newer format.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("an exported model", "onnx") from error
        self._folder = Path(folder)
        try:
            manifest = json.loads((self._folder / MANIFEST).read_text(encoding="utf-8"))
            newer = manifest["format"] > FORMAT
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"no export in {folder} ({type(error).__name__}); expected {MANIFEST}, as lightcrl export writes it."
            ) from None
        if newer:
            raise CheckpointError(f"{folder} is of format {manifest['format']}, this version reads up to {FORMAT}.")
        self.dim: int = manifest["dim"]
        self._entries: dict[str, dict[str, Any]] = manifest["modalities"]
        self._specs = {name: EncoderSpec(**entry["encoder"]) for name, entry in self._entries.items()}
        self.modalities = {name: spec.kind for name, spec in self._specs.items()}
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        self._sessions = {
            name: onnxruntime.InferenceSession(str(self._folder / entry["graph"]), settings)
            for name, entry in self._entries.items()
        }
        self._encoders: dict[str, Encoder] = {}

    def encoder(self, modality: str) -> Encoder:
        """Return the encoder that prepares items; for a complete graph its network is never loaded.

        Raises:
            ModalityError: the export has no such modality.
        """
        if modality not in self._specs:
            raise ModalityError(f"no modality {modality!r} in this export; it has {', '.join(self._specs)}.")
        if modality not in self._encoders:
            self._encoders[modality] = load_encoder(self._specs[modality])
        return self._encoders[modality]

    def encode(self, items: Sequence[Any], modality: str) -> np.ndarray:
        """Return unit vectors [N, d] float32 of raw items, in their order; see `Embedder.encode`.

        Raises:
            ModalityError: the export has no such modality.
            ItemError: an item is unreadable; the message names it.
        """
        encoder = self.encoder(modality)
        vectors = np.zeros((len(items), self.dim), dtype=np.float32)
        for places, inputs in self._batches(encoder, items, modality):
            vectors[places] = self._sessions[modality].run([OUTPUT], inputs)[0]
        return vectors

    def _batches(self, encoder: Encoder, items: Sequence[Any], modality: str) -> list[tuple[list[int], dict[str, Any]]]:
        """Return places of items and the graph's inputs, with items of similar length in a batch."""
        entry = self._entries[modality]
        if not len(items):
            return []
        if not entry["whole"]:
            wrapped = [Item(str(number), f"item {number}", item) for number, item in enumerate(items)]
            outcomes = dict(encode_items(encoder, wrapped))
            failed = {place: outcome for place, outcome in outcomes.items() if isinstance(outcome, ItemError)}
            for place, error in failed.items():
                raise ItemError(f"item {place}: {error.reason}", error.detail)
            tokens = TokenBatch.from_ragged([torch.from_numpy(outcomes[place]) for place in range(len(items))])
            inputs = {"values": tokens.values.numpy(), "mask": tokens.mask.numpy()}
            return [(list(range(len(items))), inputs)]
        assert isinstance(encoder, HuggingFaceEncoder)
        prepared = []
        for place, item in enumerate(items):
            try:
                prepared.append(encoder.prepare(item))
            except ItemError as error:
                raise ItemError(f"item {place}: {error.reason}", error.detail) from None
        batches = []
        for members in alike(prepared, entry["pads"]):
            members.sort(key=lambda place: encoder.length(prepared[place]))
            for start in range(0, len(members), encoder.batch_size):
                places = members[start : start + encoder.batch_size]
                batch = encoder.batch([prepared[place] for place in places])
                batches.append((places, {name: batch[name].numpy() for name in entry["inputs"]}))
        return batches
