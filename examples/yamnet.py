"""YAMNet as an example of your own encoder; transformers has no audio front end for it.

A recipe names the class and the arguments of its constructor:

    [encoders.sound]
    kind = "audio"
    model = "examples.yamnet:YAMNet"
    options = { folder = "path/to/yamnet" }

The folder holds the network as a `MobileNetV1Model` with one input channel (config.json, model.safetensors), and
frontend_and_classifier.safetensors with the window and the mel filters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightcrl.encoders import Encoder, pick_device
from lightcrl.encoders.audio import read_sound
from lightcrl.encoders.files import folder_digest, quiet
from lightcrl.errors import EncoderNotFoundError
from lightcrl.tokens import TokenBatch

RATE = 16_000
FRAME, STEP, POINTS = 400, 160, 512
PATCH = 96


class YAMNet(Encoder):
    """YAMNet: a token of 1,024 numbers for each patch of 0.96 seconds.

    Args:
        folder: folder of the network.
        hop: frames (10 ms) from one patch to the next; the original has 48.
        max_length: greatest length in seconds; the rest of a sound is cut off.
        device: device of the network; `"auto"` is the GPU if there is one.

    Raises:
        EncoderNotFoundError: there is no such folder.
    """

    kind = "audio"
    dim = 1024

    def __init__(self, folder: str, hop: int = 48, max_length: float = 30.0, device: str = "auto") -> None:
        from safetensors.torch import load_file
        from transformers import AutoModel

        self.folder, self.hop, self.max_length = Path(folder).expanduser(), hop, max_length
        if not (self.folder / "config.json").is_file():
            raise EncoderNotFoundError(f"no YAMNet in {self.folder.absolute()}: expected its config.json there.")
        self.device = pick_device(device)
        with quiet():
            network = AutoModel.from_pretrained(self.folder, dtype=torch.float32, use_safetensors=True)
        # Convolutions of few channels are faster with channels last.
        self.network = network.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        front = load_file(self.folder / "frontend_and_classifier.safetensors")
        self.window, self.mel = front["window_400"], front["mel_matrix_64x257"]

    def describe(self) -> Mapping[str, Any]:
        return {
            "encoder": "yamnet",
            "version": 1,
            "files": folder_digest(self.folder),
            "hop": self.hop,
            "max_length": self.max_length,
        }

    def prepare(self, raw: Any) -> Tensor:
        """Return patches [P, 1, 96, 64] of the logarithmic mel spectrogram; a short sound is padded with silence."""
        sound = torch.from_numpy(read_sound(raw, RATE, self.max_length))
        shortest = (PATCH - 1) * STEP + FRAME
        sound = torch.nn.functional.pad(sound, (0, max(0, shortest - len(sound))))
        spectrum = torch.fft.rfft(sound.unfold(0, FRAME, STEP) * self.window, POINTS).abs()
        levels = torch.log(spectrum @ self.mel.T + 0.001)
        return levels.unfold(0, PATCH, self.hop).mT.unsqueeze(1)

    def length(self, prepared: Tensor) -> int:
        return len(prepared)

    @torch.no_grad()
    def encode(self, prepared: Sequence[Tensor]) -> TokenBatch:
        """Return tokens [B, P, 1024]; patches are encoded independently."""
        patches = torch.cat(list(prepared)).to(self.device, memory_format=torch.channels_last)
        vectors = torch.cat([self.network(part).pooler_output for part in patches.split(32)])
        return TokenBatch.from_ragged(vectors.split([len(item) for item in prepared]))
