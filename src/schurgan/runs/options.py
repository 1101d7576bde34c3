"""The options of a run, by group, each with its default and its help text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schurgan.core.terminal import COMMON

Count = Annotated[int, Field(ge=1, le=1000)]
Steps = Annotated[int, Field(ge=1, le=10**9)]
Height = Annotated[int, Field(ge=1, le=1024)]
Channels = Annotated[int, Field(ge=1, le=4096)]
Images = Annotated[int, Field(ge=0, le=2**16)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, lt=10, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Options(BaseModel):
    """A group of options: frozen, and without keys that are no options."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class ModelOptions(Options):
    """The networks and z."""

    architecture: str = "small-32"
    """Shape of both networks, a row of `schurgan presets`; it must have the size of the prepared images."""
    width: Annotated[Channels | None, COMMON] = None
    """Base number of channels, which each block multiplies; without it the architecture's own."""
    width_d: Channels | None = None
    """Base number of channels of the discriminator; the generator's by default."""
    channels: Annotated[int, Field(ge=1, le=4)] = 1
    """Channels of an image, all equal unless a colour map fills its 3."""
    colormap: Literal["viridis", "magma", "turbo", "jet"] | None = None
    """Invertible colour map that is applied to the images."""
    embedding: Literal["shared", "linear", "separate"] | None = None
    """Class embedding of the generator: one for all blocks (shared), that one in the linear layer beside z too
    (linear), or one for each gain and bias of a norm (separate); the architecture's own by default."""
    skip_z: Literal["chunks", "full", "none"] | None = None
    """Part of z that each block of the generator receives; the architecture's own by default."""
    resample: Literal["nearest", "strided"] | None = None
    """Layer by which blocks change size; the architecture's own by default."""
    attention_g: Annotated[tuple[Height, ...], Field(max_length=16)] | None = None
    """Heights of the generator's feature maps with self-attention; the architecture's own by default."""
    attention_d: Annotated[tuple[Height, ...], Field(max_length=16)] | None = None
    """Heights of the discriminator's feature maps with self-attention; the architecture's own by default."""
    latent: Literal["normal", "uniform"] = "normal"
    """Distribution of z: N(0, latent-variance) or U[-1, 1]."""
    latent_variance: Positive | None = None
    """Variance of a normal z; 1 by default."""
    spectral_norm_g: bool = False
    """Normalise the generator's layers by their spectral norm."""
    spectral_norm_d: bool = True
    """Normalise the discriminator's layers by their spectral norm."""
    spectral_iterations: Count = 1
    """Power iterations in each step, for spectral normalisation and clamp."""
    clamp_g: Annotated[int, Field(ge=0, le=4096)] = 0
    """Number of leading singular values that are clamped in each layer of the generator (1: eq. (2) of the paper)."""
    clamp_limit: Positive | None = None
    """Value that they are clamped to; the next singular value by default."""
    init: Literal["orthogonal", "glorot", "normal"] = "orthogonal"
    """Distribution of the initial weights."""


class RegularizeOptions(Options):
    """Regularisers of the networks, and augmentation of what D sees."""

    orthogonal_g: Weight = 0.0
    """Weight of the orthogonal regularisation of the generator, eq. (12) and (13)."""
    orthogonal_d: Weight = 0.0
    """Weight of the orthogonal regularisation of the discriminator."""
    orthogonal_kind: Literal["relaxed", "full"] = "relaxed"
    """Make filters orthogonal (relaxed, eq. (13)) or orthonormal (full, eq. (12))."""
    gradient_penalty: Weight = 0.0
    """Weight of the gradient penalty between real and generated images; the loss wasserstein needs it."""
    r1: Weight = 0.0
    """Weight of the gradient penalty at real images."""
    r2: Weight = 0.0
    """Weight of the gradient penalty at generated images."""
    penalty_every: Steps = 1
    """D steps between gradient penalties; each one's weight is multiplied by it."""
    lecam: Weight = 0.0
    """Weight of LeCam regularisation, which helps on small data."""
    lecam_start: Annotated[int, Field(ge=0, le=10**9)] = 1000
    """D steps before LeCam is switched on."""
    augment: Annotated[str, COMMON] = ""
    """Policies of DiffAugment, which helps on small data: some of colour,translation,cutout."""
    augment_strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Strength of DiffAugment, from 0 to 1."""


class DDFNOptions(Options):
    """The difference of the departure from normality Δ² between generated and real images."""

    weight: Annotated[Weight, COMMON] = 1.0
    """Weight of the DDFN penalty in the generator's loss; with 0 its gap is only logged."""
    epsilon: Weight = 37.16
    """Gap between the mean Δ² of generated and real images that is not penalised, eq. (8) of the paper."""
    relative_epsilon: Share | None = None
    """The same as a share of the real mean, in place of epsilon."""
    constraint: Literal["mean", "image"] = "mean"
    """Hold the mean Δ² of generated images, or each image's, to the real mean."""
    penalty: Literal["hinge", "quadratic", "augmented"] = "hinge"
    """Function of the gap beyond epsilon that is penalised."""
    estimator: Literal["exact", "hybrid", "perron", "asymmetry", "moments", "paper_symmetric", "paper_determinant"] = (
        "hybrid"
    )
    """Estimator of Δ²."""
    factor: Annotated[int, Field(ge=2, le=8)] = 2
    """Pooling factor of the estimators that pool."""
    scaling: Literal["unit", "signed"] = "unit"
    """Range of the images whose Δ² is taken: [0, 1] (unit), or [-1, 1] (signed), which the paper's epsilon fits."""
    channels: Literal["mean", "sum", "luminance"] = "mean"
    """Reduction of the channels' Δ² to one number."""
    per_class: bool = False
    """Compare each class with its own real mean."""
    decay: Share = 0.99
    """Decay of the moving average of generated Δ²."""
    every: Steps = 1
    """Steps between penalties; each one's weight is multiplied by it."""
    exact_subset: Images = 0
    """Images of each batch whose exact Δ² corrects the estimator's mean."""
    interval: tuple[Annotated[float, Field(ge=-1, le=1)], Annotated[float, Field(ge=-1, le=1)]] = (-1.0, 1.0)
    """Interval of eq. (6) and (7) of the paper, whose error bound is logged and constrains nothing."""


class MomentMatchingOptions(Options):
    """A penalty where moments of generated images differ from those of real ones."""

    descriptor: Literal["none", "dfn", "variance", "frobenius", "gram", "profile", "pixels"] = "none"
    """Descriptor of an image whose moments are matched; none switches moment matching off."""
    weight: Weight = 1.0
    """Weight of the penalty; with balance, relative to the adversarial gradient."""
    per_class: bool = True
    """Match each class to its own moments."""
    spread: bool = True
    """Match the second moment as well as the mean."""
    penalty: Literal["witness", "hinge"] = "witness"
    """Pull along the difference of the moving averages (witness), or as DDFN does (hinge, which needs no-spread and
    no-balance)."""
    epsilon: Weight = 0.1
    """Gap that is not penalised, in standard deviations within a class (witness) or as a share of the real mean
    (hinge)."""
    decay: Share = 0.95
    """Decay of the moving averages of generated moments, for each D step."""
    balance: bool = True
    """Scale the penalty's gradient to the size of the adversarial gradient."""
    estimator: Literal["exact", "hybrid", "perron", "asymmetry", "moments"] | None = None
    """Estimator of the descriptor dfn; perron by default."""
    tau: Positive = 0.5
    """Severity from which a balanced penalty has its full weight."""


class HealthOptions(Options):
    """Watching for a collapse, and the reaction to it."""

    every: Annotated[int, Field(ge=0, le=10**9)] = 100
    """Steps between evaluations of the run's health; with 0 only numbers that are not finite are noticed."""
    images: Annotated[int, Field(ge=16, le=2**16)] = 256
    """Images generated for each evaluation, always from the same latents."""
    classifier: bool = True
    """Measure Fréchet distances by a small classifier, trained once for all runs on the data."""
    layer: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Layer of the generator whose maps' Δ² is logged too, less that of real images pooled to their size:
    blocks.1.norm2, linear layers have none (Figure 1 of the paper)."""
    reaction: Literal["rollback", "stop", "warn"] = "rollback"
    """Reaction to a collapse: go on from the last healthy checkpoint with gentler options, stop, or only warn."""
    max_rollbacks: Annotated[int, Field(ge=0, le=1000)] = 3
    """Rollbacks before a collapse stops the run."""
    patience: Count = 3
    """Evaluations in a row that must agree before the verdict changes."""
    warm_up: Annotated[int, Field(ge=0, le=10**9)] = 300
    """Steps before the first verdict."""
    budget: Share = 0.1
    """Share of the training time that evaluations may take; if the first one takes longer, they become rarer."""


class TrainOptions(Options):
    """The training loop."""

    steps: Annotated[Steps, COMMON] = 2000
    """Generator steps of the whole run."""
    batch_size: Annotated[int, Field(ge=1, le=2**16), COMMON] = 32
    """Real images in each step, and as many generated ones."""
    d_steps: Count = 1
    """D steps for each generator step."""
    lr_g: Rate = 1e-3
    """Learning rate of the generator's Adam."""
    lr_d: Rate = 1e-3
    """Learning rate of the discriminator's Adam."""
    betas: tuple[Share, Share] = (0.0, 0.9)
    """Decay rates of Adam's two moments."""
    eps: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 1e-6
    """Epsilon of Adam."""
    loss: Literal["hinge", "non_saturating", "minimax", "least_squares", "wasserstein"] = "hinge"
    """Adversarial loss."""
    ema_decay: Share = 0.995
    """Decay of the moving average of the generator's weights, which makes the samples."""
    seed: Annotated[int, Field(ge=0, lt=2**31), COMMON] = 0
    """Seed of the weights, the order of the data and the noise."""
    val_folds: Annotated[tuple[Annotated[int, Field(ge=0, le=10**6)], ...], Field(max_length=1000)] = ()
    """Folds of the data that are held out: not trained on, but judged by."""
    val_fraction: Annotated[Share | None, COMMON] = None
    """Share of each class that is held out, 0 for none; by default what the data holds out, else 0.1."""
    balanced: bool = False
    """Sample every class equally often."""
    prefetch: Annotated[int, Field(ge=0, le=1000)] = 2
    """Steps whose images are loaded ahead."""
    log_every: Steps = 25
    """Steps between lines of metrics.jsonl."""
    sample_every: Annotated[int, Field(ge=0, le=10**9)] = 500
    """Steps between sample grids and sounds; the first come at steps 50, 100, 200, 400, ... With 0 only the last
    step has some."""
    checkpoint_every: Steps = 500
    """Steps between checkpoints."""
    keep_checkpoints: Steps = 2
    """Newest checkpoints that are kept, in addition to the best and the last healthy one."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=2**16)] = 1
    """Parts that each batch is split into to save memory; batch norm then sees one part at a time."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the networks; losses and DDFN are always float32."""
    compile: bool = False
    """Compile the networks before the first step, which takes minutes."""
    tensorboard: bool = False
    """Also write TensorBoard's files, into RUN/tensorboard."""
    threads: Count | None = None
    """CPU threads; without it one for each core."""
    device: str = "auto"
    """Where it runs: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."""
