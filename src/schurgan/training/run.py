"""A run is a folder that describes itself: `train` starts it, `resume` goes on where it stopped."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch

from schurgan.core.distributed import World, join
from schurgan.core.errors import SchurganError, enough_memory, writing
from schurgan.core.files import lock
from schurgan.core.interrupts import stop_requests
from schurgan.core.isolation import isolated, seeded
from schurgan.core.launch import find_placement, restarted
from schurgan.core.progress import Bar
from schurgan.data.dataset import DatasetImages, LabelledImages, Pairs
from schurgan.data.prepare import prepare_data
from schurgan.data.shards import Shards
from schurgan.data.sources.base import Source
from schurgan.model import Model, load
from schurgan.runs.config import FREE, Config, command_line, flatten, is_kept
from schurgan.runs.folder import MANIFEST, RunFolder, note_use
from schurgan.runs.sidecar import OtherOptions
from schurgan.training.build import Network, Parts, build_architecture, fresh
from schurgan.training.loop import Callback, Run
from schurgan.training.losses import Loss
from schurgan.training.regularizers import Regularizer

_STOPPING = "stopping after this step, whose state is saved; Ctrl-C again stops at once, back to the last checkpoint"

Data = str | os.PathLike[str] | LabelledImages | Pairs | Source


@isolated
def train_model(
    data: Data,
    *,
    out: str | os.PathLike[str],
    preset: str | None = None,
    callbacks: Sequence[Callback] = (),
    generator: Network | None = None,
    discriminator: Network | None = None,
    loss: Loss | None = None,
    regularizers: Sequence[Regularizer] = (),
    **options: Any,
) -> Model:
    """Train a model; in Python `schurgan.train("data/clips", out="runs/clips", preset="small-64", steps=1000)`.

    Where `out` holds a run of the same options that was stopped, it goes on exactly; a finished one is loaded, or goes
    on where it is to take more steps.

    Args:
        data: a folder that `schurgan.prepare` made; a map-style torch dataset of (image, label) pairs, or other
            `LabelledImages`; or a source, which is prepared into `out`.
        out: folder of the run.
        preset: options to start from; "small-32" by default.
        callbacks: what the run calls after steps, evaluations and checkpoints.
        generator: a network of your own, or what builds it: z (B, latent_dim), labels (B,) -> images (B, C, R, R) in
            [−1, 1]. Its attributes `latent_dim` and `classes` are read.
        discriminator: a network of your own, or what builds it: images, labels -> scores (B,).
        loss: adversarial objectives of your own.
        regularizers: terms of your own, beside those that the options name.
        options: options of the preset to override, as in `Config.from_preset`: steps=1000, ddfn={"weight": 0}.

    Returns:
        The trained model.

    Raises:
        SchurganError: something does not fit, or `out` holds another run.
        Interrupted: the process was asked to stop, and the state is saved.
    """
    own = Parts(generator, discriminator, loss, tuple(regularizers))
    config, images = _with_data(Config.from_preset(preset, **options), data, Path(out))
    if images is not None and images.codec.kind == "images" and "channels" not in options:
        model = config.model.model_copy(update={"channels": images.codec.channels})
        config = config.model_copy(update={"model": model})
    train(config, out, images, own=own, callbacks=callbacks, go_on=True)
    return _trained(out, own)


@isolated
def resume_model(
    run: str | os.PathLike[str],
    data: Data | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    generator: Network | None = None,
    discriminator: Network | None = None,
    loss: Loss | None = None,
    regularizers: Sequence[Regularizer] = (),
    **options: Any,
) -> Model:
    """Go on with a run where it stopped; in Python `schurgan.resume("runs/clips", steps=2000)`.

    `data` is needed where it was moved, or was not a folder of shards. `options` change from here on, and stay changed;
    a run keeps its networks and what is held out. The rest is as in `schurgan.train`: a run's own parts are not in its
    folder.

    Returns:
        The trained model.

    Raises:
        SchurganError: there is no run, or its state does not fit the data or an option.
        Interrupted: the process was asked to stop, and the state is saved.
    """
    own = Parts(generator, discriminator, loss, tuple(regularizers))
    resume(run, data, RunFolder(Path(run)).read_config().override(**options), own=own, callbacks=callbacks)
    return _trained(run, own)


@isolated
def train(
    config: Config,
    run: str | os.PathLike[str],
    images: LabelledImages | None = None,
    *,
    own: Parts | None = None,
    callbacks: Sequence[Callback] = (),
    go_on: bool = False,
) -> Path:
    """Start a run in the folder `run`. Every process of torchrun calls this, and they train together.

    Started again by torchrun after one of them was lost, it goes on from the newest checkpoint. With `go_on` it goes on
    with a run of the same options instead of refusing it.

    Returns:
        The folder.

    Raises:
        SchurganError: there is a run already, or something does not fit.
        Interrupted: the process was asked to stop, and the state is saved.
    """
    folder, config = RunFolder(Path(run)), _absolute(config)

    with join(config.train.device) as world, world.lock(folder.path):
        again = folder.config.exists()
        if again and restarted() and not go_on:
            config = folder.read_config()
        else:
            _refuse(folder, config, go_on)
        return _fit(config, folder, _shards(config, images), world, own, callbacks, again)


@isolated
def resume(
    run: str | os.PathLike[str],
    data: Data | None = None,
    config: Config | None = None,
    *,
    own: Parts | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Continue a run from its newest checkpoint, exactly as if it had never stopped; leave a finished one as it is.

    `config` are its options from here on, by default those that its folder holds. A run that stopped itself goes on
    with other ones alone, from the state that it ended with.

    Returns:
        The folder.

    Raises:
        SchurganError: there is no run, or its state does not fit the data or an option.
        Interrupted: the process was asked to stop, and the state is saved.
    """
    folder, images = RunFolder(Path(run)), None
    folder.require()
    config = _absolute(folder.read_config() if config is None else config)
    if data is not None:
        config, images = _with_data(config, data, folder.path)
    with join(config.train.device) as world, world.lock(folder.path):
        return _fit(config, folder, _shards(config, images), world, own, callbacks, again=True)


def _absolute(config: Config) -> Config:
    """Name the folder of the data so that the run can go on from any other."""
    return config if config.data is None else config.model_copy(update={"data": config.data.resolve()})


def _refuse(folder: RunFolder, config: Config, go_on: bool) -> None:
    """Raise SchurganError for a folder that holds data, or a run unless that is to go on with its own options."""
    if not folder.config.exists():
        if (folder.path / MANIFEST).is_file():
            raise SchurganError(f"{folder.path}: prepared data, which a run is not mixed with; choose another `out`")
        return
    there, here = (flatten(each.model_dump(mode="json")) for each in (folder.read_config(), config))
    changed = {name: value for name, value in here.items() if name not in ("preset", "data") and value != there[name]}
    if go_on and not changed.keys() - FREE:
        return
    for name in filter(is_kept, changed):
        what = f"holds a run whose {name} is {there[name]}, not {here[name]}, and stays it"
        raise OtherOptions(f"{folder.path}: {what}; choose another `out`")
    command = f"schurgan resume {shlex.quote(str(folder.path))} {command_line(changed)}".rstrip()
    raise OtherOptions(f"{folder.path}: holds a run already; continue it by `{command}`, or choose another `out`")


def _with_data(config: Config, data: Data, run: Path) -> tuple[Config, LabelledImages | None]:
    """Return the options, which name a folder of shards, or else what to train on; a source is prepared into `run`."""
    if isinstance(data, str | os.PathLike):
        return config.model_copy(update={"data": Path(data).resolve()}), None
    if isinstance(data, LabelledImages):
        return config, data
    if hasattr(data, "__getitem__"):
        return config, DatasetImages(cast(Pairs, data))
    size, folder = build_architecture(config.model).size[0], RunFolder(run).data
    # Every process of a launcher comes here: the first prepares, the others wait and find it done.
    with writing(folder), lock(folder, wait=find_placement(os.environ) is not None):
        return config, Shards(prepare_data(data, out=folder, size=size))


def _shards(config: Config, images: LabelledImages | None) -> LabelledImages:
    if images is None and config.data is None:
        raise SchurganError("data: missing, the folder that `schurgan prepare` made is needed")
    return images if images is not None else Shards(config.data or "")


@enough_memory("lower `batch_size` or `width`, or raise `gradient_accumulation_steps`")
def _fit(
    config: Config,
    folder: RunFolder,
    images: LabelledImages,
    world: World,
    own: Parts | None,
    callbacks: Sequence[Callback],
    again: bool,
) -> Path:
    """Train. The run lives in here alone: its replicas must be gone before their processes leave each other."""
    with seeded(config.train.seed, world.device):
        with Bar("start", quiet=not world.is_main):
            job = Run(config, folder.path, images, world, own or Parts(), callbacks)
            if again:
                job.restore()
            else:
                job.initialise()
        world.check(lambda: _save(config, folder))
        if world.is_main and isinstance(images, Shards):
            note_use(images.folder, folder.path)
        with stop_requests(_STOPPING if world.is_main else "") as requests:
            job.fit(requests)
    return folder.path


def _trained(run: str | os.PathLike[str], own: Parts) -> Model:
    with torch.random.fork_rng(devices=[]):  # a builder of networks draws their first weights
        return load(run, generator=own.generator and fresh(own.generator))


def _save(config: Config, folder: RunFolder) -> None:
    if folder.config.exists() and folder.read_config() == config:
        return
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            config.save(folder.config)
        except OSError:
            with suppress(OSError):
                folder.path.rmdir()  # unless something is in it
            raise
