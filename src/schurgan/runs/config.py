"""Every option of a run: defaults < preset < a YAML file < the command line; what was resolved is saved in the run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schurgan.core.errors import UserError, did_you_mean
from schurgan.core.files import atomic_write

_OLD_NAMES = {
    "model.ladder": "model.architecture",
    "train.exclude_folds": "train.val_folds",
    "train.held_out": "train.val_fraction",
    "train.accumulate": "train.gradient_accumulation_steps",
    "condition": "moment_matching",
}
"""Options of the version before, which its runs and files hold."""

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, lt=10, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Options(BaseModel):
    """Frozen, and no key that is not an option."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class ModelOptions(Options):
    architecture: str = "small-32"
    """Shape of both networks, a row of `schurgan presets`; its size must be the size of the prepared images."""
    width: Count | None = None
    """Channels of a multiple of 1, the architecture's own if not given."""
    width_d: Count | None = None
    """Width of the discriminator, where it is to be another than the generator's."""
    channels: Annotated[int, Field(ge=1, le=4)] = 1
    """Channels of an image, all equal (3 with a colour map)."""
    colormap: Literal["viridis", "magma", "turbo", "jet"] | None = None
    """Paint images with a colour map that can be undone."""
    skip_z: Literal["chunks", "full", "none"] | None = None
    """What of z reaches the generator's blocks; the architecture's own if not given."""
    resample: Literal["nearest", "strided"] | None = None
    """How blocks change size; the architecture's own if not given."""
    attention_g: tuple[Count, ...] | None = None
    """Heights of the generator's maps with self-attention; the architecture's own if not given."""
    attention_d: tuple[Count, ...] | None = None
    """Heights of the discriminator's maps with self-attention; the architecture's own if not given."""
    latent: Literal["normal", "uniform"] = "normal"
    """Distribution of z: N(0, latent-variance) or U[-1, 1]."""
    latent_variance: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Variance of a normal z, 1 if not given."""
    spectral_norm_g: bool = False
    """Spectral normalisation of the generator."""
    spectral_norm_d: bool = True
    """Spectral normalisation of the discriminator."""
    spectral_iterations: Count = 1
    """Power iterations a step of spectral normalisation and clamp."""
    clamp_g: Annotated[int, Field(ge=0)] = 0
    """Leading singular values of the generator's layers that are clamped, eq. (2) of the paper for 1; 0: none."""
    clamp_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What they are clamped to; if not given, the next singular value."""
    init: Literal["orthogonal", "glorot", "normal"] = "orthogonal"
    """Initial weights."""


class RegularizeOptions(Options):
    orthogonal_g: Weight = 0.0
    """Weight of the orthogonal regularisation of the generator, eq. (12) and (13)."""
    orthogonal_d: Weight = 0.0
    """Weight of the orthogonal regularisation of the discriminator."""
    orthogonal_kind: Literal["relaxed", "full"] = "relaxed"
    """Filters orthogonal, eq. (13), or orthonormal, eq. (12)."""
    gradient_penalty: Weight = 0.0
    """Weight of the penalty on the discriminator's gradient between real and generated images; wasserstein needs it."""
    r1: Weight = 0.0
    """Weight of the penalty on the discriminator's gradient at real images."""
    r2: Weight = 0.0
    """Weight of the penalty on the discriminator's gradient at generated images."""
    penalty_every: Count = 1
    """Steps of the discriminator between gradient penalties (each then weighs as many times more)."""
    lecam: Weight = 0.0
    """Weight of LeCam regularisation, for small data."""
    lecam_start: Annotated[int, Field(ge=0)] = 1000
    """Steps of the discriminator before it comes."""
    augment: str = ""
    """DiffAugment, for small data: any of colour,translation,cutout with commas between."""
    augment_strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How much of it."""


class DDFNOptions(Options):
    weight: Weight = 1.0
    """Weight of the penalty in the generator's loss; 0 trains without it and still logs the gap."""
    epsilon: Weight = 37.16
    """Allowed difference of the mean departures from normality, eq. (8) of the paper."""
    relative_epsilon: Share | None = None
    """Allowed difference as a share of the real mean, instead of epsilon."""
    penalty: Literal["hinge", "quadratic", "augmented"] = "hinge"
    """What a gap beyond epsilon costs."""
    estimator: Literal["exact", "hybrid", "perron", "asymmetry", "moments", "paper_symmetric", "paper_determinant"] = (
        "hybrid"
    )
    """How the departure is computed."""
    factor: Annotated[int, Field(ge=2, le=8)] = 2
    """Pooling of the estimators that pool."""
    scaling: Literal["unit", "signed"] = "unit"
    """Departure of images in [0, 1] (unit) or as they are in [-1, 1] (signed), which the paper's epsilon fits."""
    channels: Literal["mean", "sum", "luminance"] = "mean"
    """How the channels' departures become one."""
    per_class: bool = False
    """Hold every class to its own real mean."""
    decay: Share = 0.99
    """Of the running mean over generated batches."""
    every: Count = 1
    """Steps between applications (each then weighs as many times more)."""
    exact_subset: Annotated[int, Field(ge=0)] = 0
    """Images of a batch whose exact departure corrects the estimator's mean."""


class MomentMatchingOptions(Options):
    """A condition on the generator beside DDFN: some moments of generated images are those of real ones."""

    descriptor: Literal["none", "dfn", "variance", "frobenius", "gram", "profile", "pixels"] = "none"
    """What of an image is compared; none: no such condition."""
    weight: Weight = 1.0
    """Weight of the penalty; of a balanced one, against the adversarial gradient."""
    per_class: bool = True
    """Hold every class to its own moments."""
    spread: bool = True
    """The second moment as well as the mean."""
    penalty: Literal["witness", "hinge"] = "witness"
    """Pull along the direction in which the running moments are off (witness), or what DDFN does (hinge, which needs
    no-spread and no-balance)."""
    epsilon: Weight = 0.1
    """Gap that is allowed: in standard deviations within a class (witness), as a share of the real mean (hinge)."""
    decay: Share = 0.95
    """Of the running moments of generated images, a step of the discriminator."""
    balance: bool = True
    """Scale the pull to the adversarial gradient's size."""
    estimator: Literal["exact", "hybrid", "perron", "asymmetry", "moments"] | None = None
    """How the descriptor dfn is computed; perron if not given."""
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    """Severity from which a balanced pull has its full weight."""


class HealthOptions(Options):
    every: Annotated[int, Field(ge=0)] = 100
    """Steps between evaluations that tell whether the run is healthy; 0: none, which leaves only what is not finite."""
    images: Annotated[int, Field(ge=16)] = 256
    """Images generated for an evaluation, always of the same latents."""
    classifier: bool = True
    """Train a small classifier of the real images first (once for all runs on the data): it gives Fréchet distances."""
    reaction: Literal["rollback", "stop", "warn"] = "rollback"
    """What a collapse leads to: go back to the last healthy checkpoint and on more gently, stop, or only say so."""
    rollbacks: Annotated[int, Field(ge=0)] = 3
    """Times that a run goes back, after which it stops."""
    patience: Count = 3
    """Evaluations in a row that make a verdict."""
    warm_up: Annotated[int, Field(ge=0)] = 300
    """Steps before the first verdict."""
    budget: Share = 0.1
    """Share of the time that evaluations may take; where the first one says that they will take more, they come less
    often."""


class TrainOptions(Options):
    steps: Count = 2000
    """Steps of the generator."""
    batch_size: Count = 32
    """Images a step, real and generated each."""
    d_steps: Count = 1
    """Steps of the discriminator for each step of the generator."""
    lr_g: Rate = 1e-3
    """Adam's learning rate of the generator."""
    lr_d: Rate = 1e-3
    """Adam's learning rate of the discriminator."""
    betas: tuple[Share, Share] = (0.0, 0.9)
    """Adam's decay rates."""
    eps: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 1e-6
    """Adam's epsilon."""
    loss: Literal["hinge", "non_saturating", "minimax", "least_squares", "wasserstein"] = "hinge"
    """Adversarial loss."""
    ema: Share = 0.995
    """Decay of the running mean of the generator's weights, which is what samples are made with."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds the weights, the order of the data and the noise."""
    val_folds: tuple[int, ...] = ()
    """Folds of the data that are not trained on, and judged by."""
    val_fraction: Share = 0.0
    """Share of each class's recordings to leave out and judge by, where the data has no folds."""
    balanced: bool = False
    """Show every class equally often."""
    prefetch: Annotated[int, Field(ge=0)] = 2
    """Steps whose images are made ready while another runs."""
    log_every: Count = 25
    """Steps between lines of metrics.jsonl."""
    sample_every: Count = 500
    """Steps between sample grids and sounds."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that are kept, beside the best one and the last healthy one."""
    gradient_accumulation_steps: Count = 1
    """Parts that a batch is computed in, one after another: less memory, and batch norm's statistics are of a part."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the networks; losses and conditions are float32 always."""
    compile: bool = False
    """Compile the networks first (minutes)."""
    tensorboard: bool = False
    """Write TensorBoard's files too, into RUN/tensorboard."""
    threads: Count | None = None
    """Threads of the CPU, all cores if not given."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", ...; "auto" takes a GPU where there is one."""


class Config(Options):
    preset: str = "small-32"
    """Preset that the options start from, see `schurgan presets`."""
    data: Path | None = None
    """Folder made by `schurgan prepare`."""
    model: ModelOptions = ModelOptions()
    ddfn: DDFNOptions = DDFNOptions()
    moment_matching: MomentMatchingOptions = MomentMatchingOptions()
    regularize: RegularizeOptions = RegularizeOptions()
    train: TrainOptions = TrainOptions()
    health: HealthOptions = HealthOptions()

    def save(self, path: str | Path) -> None:
        """As YAML, atomically."""
        with atomic_write(path, "w") as file:
            yaml.safe_dump(self.model_dump(mode="json"), file, sort_keys=False, allow_unicode=True)

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Options saved by `save`. Raises UserError naming the file and the key."""
        return _validated(_renamed(read_yaml(path), str(path)), str(path))


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(file.name.removesuffix(".yaml") for file in _presets().iterdir() if file.name.endswith(".yaml"))


def preset_summary(name: str) -> str:
    """The first line of a preset's file: what it is for."""
    return (_presets() / f"{name}.yaml").read_text("utf-8").partition("\n")[0].lstrip("# ")


def resolve(preset: str | None = None, file: str | Path | None = None) -> Config:
    """The options of a preset, overridden by those of a YAML file, which may name the preset if none is given.

    Raises UserError naming what is wrong where.
    """
    given = {} if file is None else read_yaml(file)
    preset = preset or str(given.get("preset", Config().preset))
    if preset not in preset_names():
        known = did_you_mean(preset, preset_names()) or f"; there are {', '.join(preset_names())}"
        raise UserError(f'preset "{preset}": no such preset{known}')
    options = yaml.safe_load((_presets() / f"{preset}.yaml").read_text("utf-8")) or {}
    config = _validated(options | {"preset": preset}, f"preset {preset}")
    if file is None:
        return config
    return _validated(merge_options(config.model_dump(), _renamed(given, str(file)) | {"preset": preset}), str(file))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping of plain values; no tag can build an object. Raises UserError naming file and line."""
    try:
        value = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not YAML ({getattr(error, 'problem', None) or 'damaged'})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be options") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a mapping of options is needed, this is {type(value).__name__}")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise UserError(f"{path}: names of options are text, {odd[0]!r} is not")
    return value


def _renamed(options: dict[str, Any], where: str) -> dict[str, Any]:
    """Options under their new names, with a warning for each old one."""
    options = {key: dict(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    for old, new in _OLD_NAMES.items():
        (group, _, old_key), (new_group, _, key) = old.partition("."), new.partition(".")
        holder = options.get(group) if old_key else options
        if isinstance(holder, dict) and (old_key or group) in holder:
            target = options.setdefault(new_group, {}) if key else options
            target[key or new_group] = holder.pop(old_key or group)
            warnings.warn(
                f"{where}: {old} is called {new} now; the old name is read in this version only", stacklevel=3
            )
    return options


def _presets() -> Any:
    return resources.files("schurgan.runs") / "presets"


def merge_options(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, group by group."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = (
            merge_options(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def _validated(options: Mapping[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(options)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first problem of a validation as a sentence: which key, what was given, what would do."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path).replace("_", "-")
    if first["type"] == "extra_forbidden":
        fields: Any = Config.model_fields
        for part in path[:-1]:
            fields = fields[part].annotation.model_fields
        return f"{key}: no such option{did_you_mean(path[-1], fields)}"
    needed = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{key}: {first['input']!r} given, {needed} is needed"
