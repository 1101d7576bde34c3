"""What is evaluated: the model of a run, the clips that it learned from, and those that it never saw."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from schurgan.core.errors import UserError
from schurgan.data.codec import Codec, same_levels
from schurgan.data.shards import Shards, split
from schurgan.model import Model, load
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder

BatchNorm = Literal["standing", "batch"]


@dataclass(frozen=True)
class Subject:
    """A run and its data. Altered copies of clips are in `shards` alone: references are recordings as they were."""

    run: Path
    config: Config
    model: Model
    shards: Shards
    training: Shards
    held_out: Shards | None
    """None where the run left out none."""
    codec: Codec
    """Of the shards; a run may give its images other channels or a colour map."""

    @property
    def val_folds(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.config.train.val_folds)))

    @property
    def recordings(self) -> bool:
        """Whether sounds can be compared: of pictures and of sets without recordings they cannot."""
        return not self.model.pictures and all(shard.audio is not None for shard in self.shards.manifest.shards)

    def prepared(self, images: Tensor) -> Tensor:
        """Generated images (N, C, R, R) as they would lie in the shards, (N, planes, R, R)."""
        images = self.codec.apply_colormap(self.model.codec.invert_colormap(images))
        return images[:, : self.shards.manifest.planes]

    def real(self, shards: Shards, clips: Tensor) -> Tensor:
        """Images of `clips` (N,) of a selection of the shards  ->  (N, planes, R, R)."""
        return shards.images(clips.numpy())[:, : self.shards.manifest.planes]

    def labels(self, count: int, seed: int) -> Tensor:
        """Classes (count,) with the training clips' frequencies, as near as whole numbers allow, in a drawn order."""
        clips = torch.bincount(torch.from_numpy(self.training.labels), minlength=len(self.model.classes))
        wanted = clips.double() * count / clips.sum()
        counts = wanted.floor().long()
        left = count - int(counts.sum())
        counts[(counts - wanted).sort(stable=True).indices[:left]] += 1
        labels = torch.repeat_interleave(counts)
        return labels[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]

    def check_truncation(self, truncation: float | None) -> None:
        """Raises UserError for one that its noise cannot have."""
        try:
            self.model.latent.sample(1, torch.Generator(), truncation)
        except ValueError as error:
            raise UserError(str(error)) from None

    def generator(
        self, count: int, truncation: float | None, seed: int, batch_norm: BatchNorm
    ) -> tuple[Tensor, Callable[[slice], Tensor]]:
        """Labels (count,), and what makes the prepared images of some of them. The noise is drawn for all at once, so
        that it does not depend on which of them are asked for. Raises ValueError for a bad truncation."""
        labels = self.labels(count, seed)
        z = self.model.latent.sample(count, torch.Generator().manual_seed(seed), truncation)
        network = self.model.generator
        if batch_norm == "batch":
            network = copy.deepcopy(network)
            for module in network.modules():
                if isinstance(module, _BatchNorm):
                    module.train()
        device = next(network.parameters()).device

        @torch.no_grad()
        def make(rows: slice) -> Tensor:
            return self.prepared(network(z[rows].to(device), labels[rows].to(device)).float().cpu().contiguous())

        return labels, make


def open_subject(run: str | Path, data: str | Path | None = None, device: str | torch.device = "cpu") -> Subject:
    """Raises UserError when the folder is no run, has no generator yet, or its data is gone or other data.

    data  where the shards are now, if they were moved
    """
    run = Path(run)
    config, model = RunFolder(run).read_config(), load(run, str(device))
    folder = Path(data) if data is not None else config.data
    if folder is None or not folder.is_dir():
        raise UserError(f"{run}: its data folder {folder} is gone, which scores compare with; --data says where it is")
    shards = Shards(folder)
    codec = shards.codec
    if shards.classes != model.classes or not same_levels(codec, model.codec):
        raise UserError(f"{folder}: holds other classes or images than {run} was trained on")
    training, held_out = split(shards, config.train.val_folds, config.train.val_fraction)
    return Subject(run, config, model, shards, training.select(augmented=False), held_out, codec)
