"""A trained model -> images -> sound.

`schurgan.load("runs/esc10").sample("dog", count=8, truncation=0.5, seed=0).save("out")`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import AfterValidator, AliasChoices, ConfigDict, Field
from torch import Tensor, nn

from schurgan.audio import Aux, Spectrogram, write_audio
from schurgan.audio.pictures import picture, save_png
from schurgan.core.errors import SchurganError, did_you_mean, enough_memory, is_out_of_memory, one_line
from schurgan.core.files import file_name, lock
from schurgan.core.isolation import isolated, seeded
from schurgan.core.tensors import load_tensors, save_tensors
from schurgan.data.codec import open_codec, same_levels
from schurgan.data.manifest import IMAGE, Classes, Transform
from schurgan.data.shards import Shards
from schurgan.networks import Architecture, Generator, Latent
from schurgan.runs.folder import RunFolder, wrong_place

_BATCH = 32
_MOST, _SEEDS = 10_000, 2**31

Phase = Literal["noise", "carrier", "griffin-lim"]


def _check_size(architecture: Architecture) -> Architecture:
    if len(architecture.generator) + len(architecture.discriminator) > 64 or max(architecture.size) > 1024:
        raise ValueError("64 stages and 1024 pixels at most are needed")
    return architecture


@dataclass(frozen=True)
class Card:
    """What a generator's file says about itself: all that sampling and decoding need beside the weights."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    architecture: Annotated[
        Annotated[Architecture, AfterValidator(_check_size)] | None,
        Field(validation_alias=AliasChoices("architecture", "ladder")),  # its name in the version before
    ]
    """None for a module of the user's own."""
    width: Annotated[int, Field(ge=1, le=4096)] | None
    """Channels of a multiple of 1; None for a module of the user's own."""
    channels: Annotated[int, Field(ge=1, le=4)]  # of an image
    latent: Literal["normal", "uniform"]
    latent_variance: Annotated[float, Field(gt=0)]
    classes: Classes
    transform: Transform
    """`open_codec(transform)` is what made the images, and decodes those of sounds."""
    references: tuple[float, ...]
    """Level of the top of the scale for each class, the median of its recordings."""
    data: str | None
    """Folder of shards that phases may be borrowed from."""
    step: Annotated[int, Field(ge=0, lt=2**53)]  # of training, behind the weights
    fingerprint: str | None = None  # of that data; None in files of the version before
    format: Literal["schurgan-generator/3", "schurgan-generator/2"] = "schurgan-generator/3"

    def __post_init__(self) -> None:
        if len(self.references) != len(self.classes) and self.transform.get("transform") != IMAGE:
            raise ValueError(f"{len(self.references)} references for {len(self.classes)} classes")


@dataclass(frozen=True)
class Sounds:
    """Generated sounds of one class: audio (N, L) at sample_rate Hz and the images (N, C, R, R) they were made from.

    A model of pictures makes those alone: audio and sample_rate are None.
    """

    label: str
    audio: Tensor | None
    images: Tensor
    sample_rate: int | None

    def __len__(self) -> int:
        return len(self.images)

    @isolated
    def save(self, folder: str | Path) -> list[Path]:
        """Write one WAV and one PNG a sound, FOLDER/label-000.wav; return the WAVs, or the PNGs of pictures.

        `schurgan.core.files.file_name` makes the name of the files from the label: another label, other files.
        """
        folder, paths = Path(folder), []
        name = file_name(self.label)
        with lock(folder):
            for i, image in enumerate(self.images):
                path = folder / f"{name}-{i:03d}.png"
                save_png(picture(image, max(1, 256 // image.shape[-1]), photo=self.audio is None), path)
                if self.audio is not None and self.sample_rate is not None:
                    path = path.with_suffix(".wav")
                    write_audio(path, self.audio[i], self.sample_rate)
                paths.append(path)
        return paths


class Model:
    """A generator, which is put into eval mode, with the codec of its images."""

    def __init__(self, generator: Generator, card: Card) -> None:
        self.generator = generator.eval()
        self.card = card
        variance = card.latent_variance if card.latent == "normal" else None
        self.latent = Latent(generator.latent_dim, card.latent, variance=variance)
        self.codec = open_codec(card.transform)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; the label of a class is its place."""
        return self.card.classes

    def to(self, device: torch.device | str) -> Self:
        """Move the generator to `device`, in place, and return the model."""
        self.generator.to(device)
        return self

    @property
    def pictures(self) -> bool:
        """Whether it was trained on pictures, which are no sounds."""
        return self.codec.kind == "images"

    @property
    def spectrogram(self) -> Spectrogram:
        """What turns its images into sound. Raises SchurganError for a model of pictures."""
        if self.pictures:
            raise SchurganError("this model was trained on pictures: it makes no sounds")
        return cast(Spectrogram, self.codec)

    @enough_memory("lower `count`")
    @isolated
    def sample(
        self,
        label: str,
        count: int = 1,
        truncation: float | None = None,
        seed: int = 0,
        *,
        phase: Phase = "noise",
        refine: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Sounds:
        """Make sounds of one class; the same seed gives the same sounds.

        Args:
            label: name of the class.
            count: how many, 1 to 10,000.
            truncation: variance α of the noise: under 1 more typical, above 1 more varied; 1 by default.
            seed: 0 to 2³¹ − 1.
            phase: "noise" and "griffin-lim" find one; "carrier" starts from a recording of the class in the shards.
            refine: iterations of fitting sound to image, 32 by default.
            progress: called with (sounds made, their number).

        Raises:
            SchurganError: a class or a number is out of range.
        """
        if label not in self.classes:
            known = did_you_mean(label, self.classes) or f"; there are {', '.join(self.classes)}"
            raise SchurganError(f'class "{label}": the model was not trained on it{known}')
        if not 1 <= count <= _MOST:
            raise SchurganError(f"count: {count} given, a whole number from 1 to {_MOST} is needed")
        if not 0 <= seed < _SEEDS:
            raise SchurganError(f"seed: {seed} given, a whole number from 0 to {_SEEDS - 1} is needed")
        labels = torch.full((count,), self.classes.index(label))
        try:
            images = self.images(labels, truncation, seed)
        except ValueError as error:
            raise SchurganError(str(error)) from None
        if self.pictures:
            return Sounds(label, None, images, None)
        audio = self.decode(images, labels, phase, refine, seed, progress)
        return Sounds(label, audio, images, self.spectrogram.sample_rate)

    @isolated
    @torch.no_grad()
    def images(self, labels: Tensor, truncation: float | None = None, seed: int = 0) -> Tensor:
        """Generate images (N, C, R, R) in [−1, 1] of classes (N,), float32 on the CPU.

        Raises:
            ValueError: truncation, see `sample`, is out of range.
        """
        generator = torch.Generator().manual_seed(seed)
        z = self.latent.sample(len(labels), generator, truncation)
        device = next(self.generator.parameters()).device
        parts = zip(z.split(_BATCH), labels.split(_BATCH), strict=True)
        with seeded(seed, device):  # for networks that draw noise of their own
            images = [self.generator(a.to(device), b.to(device)) for a, b in parts]
        return torch.cat([each.float().cpu().contiguous() for each in images])

    @isolated
    @torch.no_grad()
    def decode(
        self,
        images: Tensor,
        labels: Tensor,
        phase: Phase = "noise",
        refine: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Turn images (N, C, R, R) of classes (N,) into sounds (N, L), none louder than full scale."""
        reference = torch.tensor(self.card.references)[labels]
        carriers = self._carriers(labels, seed) if phase == "carrier" else None
        options: dict[str, Any] = {"phase": phase, "refine": 32 if refine is None else refine, "hold_phase": False}
        sounds = []
        torch.set_num_threads(1)  # more gain little on short FFTs, and on a busy machine cost ten times as much
        for i in range(0, len(images), _BATCH):
            part = slice(i, i + _BATCH)
            here = Aux(reference[part], None if carriers is None else carriers[part])
            sounds.append(self.spectrogram.decode(images[part], here, seed=seed + i, **options))
            if progress:
                progress(min(i + _BATCH, len(images)), len(images))
        audio = torch.cat(sounds)
        return audio / audio.abs().amax(1, keepdim=True).clamp_min(1)

    @isolated
    def save(self, path: str | Path) -> None:
        """Write weights and card into one safetensors file, atomically."""
        save_tensors(Path(path), self.generator.state_dict(), asdict(self.card))

    def open_data(self, folder: str | Path | None = None, recorded: str | Path | None = None) -> Shards:
        """Open the shards that the model was trained on, in `folder` where they were moved.

        `recorded` is where its run has them, by default where its file says.

        Raises:
            SchurganError: they are gone, or the folder holds other data, as after another `prepare` into it.
        """
        recorded = self.card.data if recorded is None else recorded
        if folder is None and (recorded is None or not Path(recorded).is_dir()):
            raise SchurganError(
                f"data: {recorded} is gone, which the model was trained on; put it back or give its new place"
            )
        shards = Shards(folder or recorded or "")
        same = shards.classes == self.classes and same_levels(shards.codec, self.codec)
        if not same or self.card.fingerprint not in (None, shards.fingerprint):
            made = self.card.transform | ({} if self.pictures else {"channels": shards.codec.channels})
            unlike = shards.unlike(dict.fromkeys(self.classes), made, self.card.data, self.card.fingerprint)
            raise SchurganError(
                f"{shards.folder}: holds other data than the model was trained on ({unlike}); prepare it as it was, or "
                "train again"
            )
        return shards

    def _carriers(self, labels: Tensor, seed: int) -> Tensor:
        """Return a recording of each label's class, chosen by the seed: (N, L)."""
        try:
            shards = self.open_data()
        except SchurganError as error:
            raise SchurganError(f'phase "carrier": {error}; or choose "noise" or "griffin-lim"') from None
        generator = torch.Generator().manual_seed(seed)
        recordings = []
        for label in labels.tolist():
            clips = torch.from_numpy(shards.labels == label).nonzero()[:, 0]
            recordings.append(shards.recording(int(clips[torch.randint(len(clips), (1,), generator=generator)])))
        return torch.stack(recordings)


def build(card: Card) -> Generator:
    """Build an untrained generator of the card's shape; the global random state is left as it was."""
    assert card.architecture is not None
    with torch.random.fork_rng(devices=[]):
        return Generator(card.architecture, len(card.classes), card.width, card.channels)


@isolated
def load(path: str | os.PathLike[str], device: str = "cpu", generator: nn.Module | None = None) -> Model:
    """Load a trained model.

    Args:
        path: folder of a run, or a generator.safetensors.
        device: where the generator goes.
        generator: takes the weights, where the run trained a module of the user's own.

    Raises:
        SchurganError: there is no model, it cannot be read, or it needs a `generator`.
    """
    path = Path(path)
    file = RunFolder(path).generator if path.is_dir() else path
    if not file.exists():
        if not RunFolder(path).exists():
            raise wrong_place(path, "model")
        raise SchurganError(f"{path}: the run has not saved a generator yet; `schurgan resume {path}` goes on to it")

    def like(card: Card) -> Mapping[str, Tensor]:
        if generator is not None:
            return generator.state_dict()
        if card.architecture is None:
            raise SchurganError(f"{file}: of a network that this package does not have; give it as generator")
        with torch.device("meta"):
            return build(card).state_dict()

    try:
        card, weights = load_tensors(file, Card, like)
        network = build(card) if generator is None else cast(Generator, generator)
        network.load_state_dict(weights)
        return Model(network.to(device), card)
    except SchurganError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        if file.suffix != ".safetensors":
            raise wrong_place(file, "model") from None
        reason = getattr(error, "strerror", None) or one_line(error)
        raise SchurganError(
            f"{file}: damaged, or not a generator of this program's format ({reason[:120]}); `schurgan train` makes one"
        ) from None
