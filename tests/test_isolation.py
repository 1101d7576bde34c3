"""Every public function under odd settings of the caller's: the same result, and the settings as they were."""

from __future__ import annotations

import json
import locale
import operator
import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

import schurgan
from public_calls import CASES
from schurgan import audio, health, networks, normality
from schurgan.core.isolation import own_settings
from schurgan.data import Shards
from schurgan.data.sources import open_source
from schurgan.training.learner import Precision


@contextmanager
def changed(read: Callable[[], Any], write: Callable[[Any], object], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


@contextmanager
def comma_decimals() -> Iterator[None]:
    """A locale of the machine that writes 0,5, where there is one."""
    before = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "nl_NL.UTF-8"):
        try:
            locale.setlocale(locale.LC_ALL, name)
            break
        except locale.Error:
            continue
    yield
    locale.setlocale(locale.LC_ALL, before)


def dtype(value: torch.dtype):
    return changed(torch.get_default_dtype, torch.set_default_dtype, value)


def precision(value: str):
    return changed(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, value)


def deterministic():
    return changed(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True)


def threads(count: int):
    return changed(torch.get_num_threads, torch.set_num_threads, count)


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


ODD: dict[str, Callable[[], Any]] = {
    "float64": lambda: dtype(torch.float64),
    "bfloat16": lambda: dtype(torch.bfloat16),
    "meta device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": lambda: torch.inference_mode(),
    "no_grad": lambda: torch.no_grad(),
    "deterministic": deterministic,
    "medium precision": lambda: precision("medium"),
    "three threads": lambda: threads(3),
    "warnings are errors": warnings_as_errors,
    "comma decimals": comma_decimals,
}
TOGETHER = [
    ("float64", "autocast", "inference mode", "deterministic"),
    ("bfloat16", "meta device", "no_grad", "medium precision", "warnings are errors", "comma decimals"),
    *(pytest.param((name,), marks=pytest.mark.slow) for name in ODD),
]


def state() -> dict[str, Any]:
    """All that the library must leave as it found it."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.utils._device.CURRENT_DEVICE,
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "threads": torch.get_num_threads(),
        "torch's numbers": torch.get_rng_state().numpy().tobytes(),
        "NumPy's numbers": str(np.random.get_state()),  # noqa: NPY002
        "Python's numbers": random.getstate(),
        "NumPy's errors": np.geterr(),
        "warnings": list(warnings.filters),
        "handlers": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "path": list(sys.path),
    }


@pytest.fixture(scope="module")
def given(
    recordings: Path,
    shards: Path,
    finished_run: Path,
    tiny: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """What the cases start from, made under ordinary settings."""
    noise = torch.Generator().manual_seed(0)
    images = torch.rand(24, 1, 16, 16, generator=noise) * 2 - 1
    labels = torch.arange(24) % 2
    torch.manual_seed(0)
    architecture = networks.find_architecture("small-16")
    both = networks.Generator(architecture, 4, 4, 1), networks.Discriminator(architecture, 4, 4, 1)
    config = tiny(steps=1, checkpoint_every=1)
    small = config.model.model_dump(include={"architecture", "width"})
    return SimpleNamespace(
        recordings=recordings,
        shards=shards,
        run=shutil.copytree(finished_run, tmp_path_factory.mktemp("scored") / "run"),  # it will have scores
        options=config.train.model_dump(include={"steps", "batch_size", "checkpoint_every", "sample_every", "threads"})
        | {"model": small, "ddfn": {"relative_epsilon": 0.1, "weight": 1.0}},
        images=images,
        labels=labels,
        clip=torch.rand(2, 8000, generator=noise) - 0.5,
        z=torch.randn(4, both[0].latent_dim, generator=noise),
        architecture=architecture,
        networks=tuple(each.eval() for each in both),
        conditions=lambda: [
            normality.DDFN(relative_epsilon=0.1, per_class=True, estimator="exact"),
            normality.MomentMatching("gram", classes=2),
            normality.MomentMatching("dfn", classes=2, penalty="hinge", spread=False, balance=False),
        ],
        spectrograms=lambda: [
            audio.Spectrogram(size=16, n_samples=8000, channels=3, colormap="viridis"),
            audio.Spectrogram("stft", 16, "linear", n_samples=8000, channels=1, frame="native"),
            audio.Spectrogram("wavelet", 16, "log_real", n_samples=8000, channels=1),
        ],
    )


@pytest.fixture(scope="module")
def usual(given: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each case gives under ordinary settings."""
    return {name: leaves(function(given, tmp_path_factory.mktemp(name))) for name, function in CASES.items()}


@pytest.fixture(scope="module", autouse=True)
def little_work() -> Iterator[None]:
    """Classifiers of four steps and six sounds."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("QUICK", "FULL"):
            steps = {"epochs": 1, "least_steps": 4, "most_steps": 4}
            patched.setattr(f"schurgan.evaluation.features.classifier.{name}", steps)
        patched.setattr("schurgan.evaluation.score_sounds._WANTED", 6)
        patched.setattr("schurgan.evaluation.score_sounds._REFINE", 1)
        yield


def leaves(result: Any) -> list[Any]:
    """Tensors and plain values; a tensor with its dtype and device."""
    return [
        (f"{keystr(path)} {each.dtype} {each.device}", each) if isinstance(each, Tensor) else (keystr(path), each)
        for path, each in tree_flatten_with_path(result)[0]
    ]


def same(one: Any, other: Any) -> bool:
    return one[0] == other[0] and (torch.equal(one[1], other[1]) if isinstance(one[1], Tensor) else one[1] == other[1])


# How exactly networks multiply, and normality's estimators that do nothing else, is for the caller's loop to say, as is
# on how many threads, which changes the order of sums and so their last bit.
OF_THE_CALLER = {
    "three threads": {"forward_passes", "made_of_networks", "evaluation", "model"},
    "autocast": {"forward_passes"},
    "medium precision": {"forward_passes", "matrices", "conditions"},
}


@pytest.mark.parametrize("odd", TOGETHER)
def test_odd_settings_change_no_result_and_are_as_before_after_every_public_function(
    odd, given, usual, tmp_path, monkeypatch
):
    names = set(CASES).difference(*(OF_THE_CALLER.get(name, ()) for name in odd))
    wrong = []
    with ExitStack() as settings:
        for name in odd:
            settings.enter_context(ODD[name]())
        for name in sorted(names):
            (place := tmp_path / name).mkdir()
            monkeypatch.chdir(place)
            monkeypatch.setenv("SCHURGAN_CACHE", str(place / "cache"))
            before = state()
            found = leaves(CASES[name](given, place))
            after = state()
            wrong += [f"{name} changed {what}" for what in before if before[what] != after[what]]
            with own_settings():
                pairs = zip(found, usual[name], strict=True)
                wrong += [f"{name} gave another {one[0]}" for one, other in pairs if not same(one, other)]
    assert not wrong


def test_numbers_of_numpy_and_other_paths_do_as_python_s(given, usual, tmp_path):
    eight, path = np.int64(16), PurePath(given.recordings)
    folder = schurgan.prepare(path, out=tmp_path / "data", size=eight, seconds=np.float32(0.5), workers=np.int8(1))
    options = given.options | {"steps": np.int64(1), "seed": np.uint8(3), "ddfn": {"weight": np.float32(1)}}
    trained = schurgan.train(folder, out=tmp_path / "run", **options)
    sounds, same = (
        trained.sample("bell", each(2), seed=each(5), truncation=0.5, refine=each(0)) for each in (np.int64, int)
    )
    assert torch.equal(sounds.audio, same.audio)
    assert trained.card.step == 1
    found = schurgan.evaluate(PurePath(given.run), images=np.int64(24), runs=np.int32(1), seed=np.int64(0))
    assert json.loads((given.run / "scores.json").read_text())["protocol"]["n_fake"] == 24
    assert found.protocol.seed == 0
    assert schurgan.evaluation.score(given.images, given.images * 0.5, seed=np.int64(7))
    assert len(open_source("soundscape", per_class=np.int64(2), seed=np.int64(1)).items()) == 16
    assert audio.Spectrogram(size=eight, n_samples=np.int64(8000)).config["size"] == 16
    assert schurgan.Config.from_preset(steps=np.int64(7)).train.steps == 7
    assert networks.Generator(given.architecture, np.int64(4), np.int64(4), np.int64(1)).classes == 4
    assert networks.Latent(np.int64(3)).sample(np.int64(2)).shape == (2, 3)
    assert health.Monitor(patience=np.int64(2)).update(np.int64(1), frechet=np.float32(2)).state == "healthy"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_networks_are_built_in_the_default_dtype_and_work_in_it(given, dtype):
    with changed(torch.get_default_dtype, torch.set_default_dtype, dtype):
        generator, discriminator = (
            networks.Generator(given.architecture, 4, 4, 1),
            networks.Discriminator(given.architecture, 4, 4, 1),
        )
        networks.apply_spectral_norm(generator)
        images = generator(given.z.to(dtype), given.labels[:4])
        scores = discriminator(images, given.labels[:4])
    assert (images.dtype, scores.dtype) == (dtype, dtype)
    assert scores.isfinite().all()


def test_what_was_first_used_in_inference_mode_can_be_trained_through(given):
    with torch.inference_mode():
        spectrogram = audio.Spectrogram("stft", 24, n_samples=8000, channels=1)
        image, aux = spectrogram.encode(given.clip)
        condition = normality.MomentMatching("profile", classes=2)
        condition.load_state_dict(fitted(given).state_dict())
    clip, image = given.clip.clone().requires_grad_(), image.clone().requires_grad_()
    spectrogram.encode(clip)[0].square().sum().backward()
    spectrogram.decode(image, audio.Aux(aux.reference.clone()), phase="noise", refine=1).square().sum().backward()
    fake = given.images.clone().requires_grad_()
    condition(fake, given.labels)[0].backward()
    assert all(each.grad.isfinite().all() for each in (clip, image, fake))


def fitted(given: SimpleNamespace) -> normality.MomentMatching:
    condition = normality.MomentMatching("profile", classes=2)
    condition.fit_real([(given.images, given.labels)])
    condition.observe(0.5 * given.images, given.labels)
    return condition


def test_threads_that_end_in_any_order_leave_the_default_dtype_of_the_caller():
    first, second = own_settings(), own_settings()
    with changed(torch.get_default_dtype, torch.set_default_dtype, torch.float64):
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            one.submit(first.__enter__).result()
            other.submit(second.__enter__).result()
            one.submit(first.__exit__, None, None, None).result()
            assert torch.get_default_dtype() == torch.float32
            other.submit(second.__exit__, None, None, None).result()
        assert torch.get_default_dtype() == torch.float64


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="names of torch 2.9")
@pytest.mark.parametrize("name", ["cuda.matmul", "cudnn.conv", "mkldnn.matmul"])
def test_a_caller_may_use_the_newer_names_of_torch_for_precision(given, tmp_path, name):
    place = operator.attrgetter(name)(torch.backends)
    other = "tf32" if name == "cuda.matmul" else "ieee" if name == "cudnn.conv" else "bf16"
    with changed(lambda: place.fp32_precision, lambda value: setattr(place, "fp32_precision", value), other):
        with own_settings(), Precision("tf32", torch.device("cpu")).switches():
            assert torch.get_float32_matmul_precision() == "high"
        assert place.fp32_precision == other


def test_a_folder_given_by_a_relative_path_is_found_from_another_folder_too(given, tmp_path, monkeypatch):
    monkeypatch.chdir(given.shards.parent)
    shards = Shards(given.shards.name)
    monkeypatch.chdir(given.recordings.parent)
    source = open_source("folder", given.recordings.name)
    monkeypatch.chdir(tmp_path)
    assert shards.images([0]).shape == (1, 1, 16, 16)
    assert source.load(source.items()[0], 16000).shape == (8000,)


class Noisy(nn.Module):
    """A user's own network that draws noise of its own."""

    latent_dim, classes = 4, 8

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 256)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        images = self.linear(z + torch.randn_like(z)).view(-1, 1, 16, 16)
        return images.tanh()


def test_a_network_that_draws_noise_makes_the_same_sounds_from_the_same_seed(given, tmp_path):
    before = torch.get_rng_state()
    trained = schurgan.train(given.shards, out=tmp_path / "run", generator=Noisy, **given.options)
    assert torch.equal(torch.get_rng_state(), before)
    one = trained.sample("bark", 2, refine=0)
    torch.rand(1)
    assert torch.equal(one.images, trained.sample("bark", 2, refine=0).images)
