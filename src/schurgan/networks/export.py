"""A trained generator as a file that runs without this package: `torch.export` or ONNX."""

from __future__ import annotations

import importlib.util
import io
import logging
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.core.files import atomic_write
from schurgan.core.isolation import isolated
from schurgan.networks.generator import Generator
from schurgan.networks.layers import TransposedConv2d, UpConv2d
from schurgan.networks.spectral import unconstrained_state

Format = Literal["pt2", "onnx"]

_NEEDED = ("onnx", "onnxscript")
_OPSET = 18


@isolated
def export_generator(generator: Generator, path: str | Path, format: Format = "pt2") -> Path:
    """Write what `generator` computes in eval mode, weights included, and return the path.

    The file takes "z" (B, latent_dim) float32 and "labels" (B,) int64 below `classes`, B ≥ 1, and gives "images"
    (B, channels, H, W) float32 in [−1, 1], the same numbers but for rounding. "pt2" is read by `torch.export.load`,
    "onnx" (operator set 18) by ONNX Runtime and others. Spectral norms are applied to the weights as they stand, and
    convolutions that enlarge have their kernels summed once. `generator` is not changed; the file is for a CPU. It
    appears whole or not at all.

    Raises:
        ValueError: the format is another.
        SchurganError: "onnx" is not installed.
        OSError: the file system refuses.
    """
    if format not in get_args(Format):
        near = did_you_mean(str(format), get_args(Format))
        raise ValueError(f'format: "{format}" given, "pt2" or "onnx" is needed{near}')
    if format == "onnx" and not all(map(importlib.util.find_spec, _NEEDED)):
        raise SchurganError(
            'format: "onnx" needs onnx and onnxscript, which are not installed; `pip install schurgan[onnx]` would do'
        )
    network = frozen(generator)
    # Two of each: a batch of one would be taken for a constant.
    example = (torch.zeros(2, network.latent_dim), torch.zeros(2, dtype=torch.int64))
    batch = torch.export.Dim("batch", min=1)
    file = io.BytesIO()
    with torch.no_grad():
        program = torch.export.export(network, example, dynamic_shapes={"z": {0: batch}, "labels": {0: batch}})
        if format == "pt2":
            torch.export.save(program, file)
        else:
            file.write(_onnx(program))
    with atomic_write(path) as out:
        out.write(file.getvalue())
    return Path(path)


def _onnx(program: torch.export.ExportedProgram) -> bytes:
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of every operator of torchvision, where that is not installed
    try:
        made = torch.onnx.export(
            program,
            input_names=["z", "labels"],
            output_names=["images"],
            dynamic_shapes={"z": {0: "batch"}, "labels": {0: "batch"}},  # the name that the dimension has in the file
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    finally:
        log.setLevel(level)
    assert made is not None
    content: bytes = made.model_proto.SerializeToString()
    return content


@torch.no_grad()
def frozen(generator: Generator) -> Generator:
    """Return a copy in eval mode, float32 on the CPU, whose layers hold the weights and kernels they compute with.

    Parameters and buffers are `generator`'s own memory where they can be.
    """
    shape = (generator.architecture, generator.classes, generator.width, generator.channels)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        network = Generator(*shape, spectral_norm=False, init="normal")
    state = unconstrained_state(generator)
    network.load_state_dict({name: value.detach().cpu().contiguous() for name, value in state.items()}, assign=True)
    network = network.float().eval().requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, UpConv2d | TransposedConv2d) and module.scale != 1:
            network.set_submodule(name, _transposed(module))
    return network


@torch.no_grad()
def _transposed(layer: UpConv2d | TransposedConv2d) -> nn.ConvTranspose2d:
    """The plain transposed convolution that a layer is, its kernel made once instead of at every call."""
    kernel = layer.kernel()
    with torch.random.fork_rng(devices=[]):  # it draws weights, which are not kept
        made = nn.ConvTranspose2d(
            layer.in_channels,
            layer.out_channels,
            (kernel.shape[2], kernel.shape[3]),
            layer.scale,
            padding=1,
            output_padding=layer.scale + 2 - kernel.shape[2],
        )
    made.weight = nn.Parameter(kernel.contiguous(), requires_grad=False)
    made.bias = layer.bias
    return made
