"""The parts of which configs are composed: each sets some keys of a config in place.

An experiment is `base.get_config()`, a few of these parts, a few values of its own and, last,
`finish`. It calls at most one part of each kind, in the order of kinds in `configs/order.py`.
"""

import math
from typing import Any

import ml_collections

from scorax.configs.order import part
from scorax.utils.shapes import height_and_width


@part("SDE")
def ve(c: ml_collections.ConfigDict) -> None:
    """The VE SDE with its published sampler: reverse diffusion and Langevin dynamics."""
    c.training.sde = "vesde"
    c.training.reduce_mean = False
    c.model.ema_rate = 0.999
    c.sampling.predictor = "reverse_diffusion"
    c.sampling.corrector = "langevin"


@part("SDE")
def vp(c: ml_collections.ConfigDict, sde: str = "vpsde") -> None:
    """The VP or sub-VP SDE with its published sampler: Euler-Maruyama, data in [-1, 1]."""
    c.training.sde = sde
    c.training.reduce_mean = True
    c.data.centered = True
    c.model.ema_rate = 0.9999
    c.sampling.predictor = "euler_maruyama"
    c.sampling.corrector = "none"


@part("network")
def ncsnpp(c: ml_collections.ConfigDict) -> None:
    """NCSN++ as trained on CIFAR-10 with continuous times."""
    c.model.name = "ncsnpp"
    c.model.fir = True
    c.model.progressive = "none"
    c.model.progressive_input = "residual"
    c.model.embedding_type = "fourier"
    c.model.scale_by_sigma = True


@part("network")
def ncsnpp_pyramids(c: ml_collections.ConfigDict) -> None:
    """NCSN++ as trained at 256 pixels and more, with input and output pyramids."""
    ncsnpp(c)
    c.model.progressive = "output_skip"
    c.model.progressive_input = "input_skip"


@part("network")
def ncsnpp_vp(c: ml_collections.ConfigDict) -> None:
    """NCSN++ as trained with the VP and sub-VP SDEs: its input is the time instead of sigma."""
    ncsnpp(c)
    c.model.embedding_type = "positional"
    c.model.scale_by_sigma = False


@part("network")
def ncsnpp_256(c: ml_collections.ConfigDict) -> None:
    """NCSN++ as trained with the VE SDE at 256 pixels."""
    ncsnpp_pyramids(c)
    c.model.ch_mult = (1, 1, 2, 2, 2, 2, 2)
    c.model.num_res_blocks = 2
    c.model.num_scales = 2000


@part("network")
def ncsnpp_1024(c: ml_collections.ConfigDict) -> None:
    """NCSN++ as trained with the VE SDE on faces at 1,024 pixels, with image size and schedule."""
    ncsnpp_pyramids(c)
    c.data.image_size = 1024
    m = c.model
    m.nf = 16
    m.ch_mult = (1, 2, 4, 8, 16, 32, 32, 32)
    m.num_res_blocks = 1
    m.num_scales = 2000
    m.sigma_max = 1348.0
    m.dropout = 0.0
    m.ema_rate = 0.9999
    c.training.batch_size = 8
    c.training.n_iters = 2_400_000
    c.training.snapshot_freq_for_preemption = 5000
    c.sampling.snr = 0.15
    c.eval.batch_size = 8
    c.eval.num_samples = 8


@part("network")
def ddpmpp(c: ml_collections.ConfigDict) -> None:
    """DDPM++: the NCSN++ network without FIR filters and pyramids."""
    c.model.name = "ncsnpp"
    c.model.fir = False
    c.model.progressive = "none"
    c.model.progressive_input = "none"
    c.model.embedding_type = "positional"
    c.model.scale_by_sigma = False


@part("network")
def ddpm(c: ml_collections.ConfigDict) -> None:
    """The network of DDPM (Ho et al. 2020) at 32 pixels."""
    c.model.name = "ddpm"
    c.model.num_res_blocks = 2
    c.model.scale_by_sigma = False


@part("network")
def ddpm_256(c: ml_collections.ConfigDict) -> None:
    """The network of DDPM at 256 pixels, and its learning rate."""
    ddpm(c)
    c.model.ch_mult = (1, 1, 2, 2, 4, 4)
    c.optim.lr = 2e-5


@part("network")
def ncsn(c: ml_collections.ConfigDict) -> None:
    """NCSN (Song & Ermon 2019): its network, optimizer and annealed Langevin dynamics."""
    discrete(c)
    c.model.name = "ncsn"
    c.model.scale_by_sigma = False
    c.model.normalization = "InstanceNorm++"
    c.model.nonlinearity = "elu"
    c.optim.lr = 1e-3
    c.optim.warmup = 0
    c.optim.grad_clip = -1.0
    c.sampling.predictor = "none"
    c.sampling.corrector = "ald"


@part("network")
def ncsnv2(c: ml_collections.ConfigDict, name: str) -> None:
    """NCSNv2 (Song & Ermon 2020): the network called `name`, which does not see the noise level."""
    ncsn(c)
    c.model.name = name
    c.model.scale_by_sigma = True
    c.optim.lr = 1e-4


@part("SDE")
def cosine(c: ml_collections.ConfigDict) -> None:
    """The cosine schedule of score-based data assimilation, with the published sampler.

    256 steps of the exponential integrator, each followed by one of Langevin dynamics.
    """
    c.training.sde = "cosine"
    c.training.reduce_mean = True
    c.model.ema_rate = 0.999
    s = c.sampling
    s.predictor = "exponential"
    s.corrector = "adaptive_langevin"
    s.corrector_last = True
    s.snr = 0.5
    s.steps = 256
    s.noise_removal = False


@part("network")
def periodic_unet(c: ml_collections.ConfigDict) -> None:
    """The U-Net of score-based data assimilation for Kolmogorov flow."""
    m = c.model
    m.name = "periodic_unet"
    m.nf = 96
    m.ch_mult = (1, 2, 4)
    m.num_res_blocks = 3
    m.embedding_type = "positional"
    m.scale_by_sigma = False
    m.dropout = 0.0


@part("network")
def mlp(c: ml_collections.ConfigDict) -> None:
    """A residual multilayer perceptron, for points and other small arrays."""
    m = c.model
    m.name = "mlp"
    m.nf = 128
    m.num_res_blocks = 4
    m.embedding_type = "positional"
    m.scale_by_sigma = False
    m.dropout = 0.0


@part("network")
def dilated(c: ml_collections.ConfigDict) -> None:
    """A residual network of dilated convolutions, for series."""
    m = c.model
    m.name = "dilated"
    m.nf = 64
    m.num_res_blocks = 2
    m.embedding_type = "fourier"
    m.scale_by_sigma = False
    m.dropout = 0.0


@part("noise levels")
def discrete(c: ml_collections.ConfigDict) -> None:
    """Training on the N noise levels of SMLD or DDPM; the network sees the index of a level."""
    c.training.continuous = False
    c.model.embedding_type = "positional"


@part("data")
def cifar10(c: ml_collections.ConfigDict) -> None:
    """CIFAR-10, 32 pixels, with the published length of training."""
    c.data.dataset = "cifar10"
    c.data.image_size = 32
    c.data.num_channels = 3
    c.training.n_jitted_steps = 5


@part("data")
def celeba(c: ml_collections.ConfigDict) -> None:
    """CelebA, 64 pixels, with the published length of training and noise levels."""
    c.data.dataset = "celeba"
    c.data.image_size = 64
    c.model.sigma_max = 90.0
    c.training.n_jitted_steps = 5
    c.sampling.snr = 0.17


@part("data")
def pixels_256(c: ml_collections.ConfigDict, dataset: str, category: str = "") -> None:
    """A data set at 256 pixels, with the published length of training."""
    c.data.dataset = dataset
    c.data.category = category
    c.data.image_size = 256
    c.training.batch_size = 64
    c.training.n_iters = 2_400_000
    c.training.n_jitted_steps = 5
    c.training.snapshot_freq_for_preemption = 5000
    c.model.dropout = 0.0
    c.sampling.snr = 0.075


@part("size")
def deep(c: ml_collections.ConfigDict) -> None:
    """Twice the depth, trained for 950,000 steps: the models with the best published FID."""
    c.model.num_res_blocks = 8
    c.training.n_iters = 950_000


@part("objective")
def edm(c: ml_collections.ConfigDict) -> None:
    """Preconditioning, noise levels and weight of Karras et al. 2022, for any SDE."""
    c.model.parametrization = "edm"
    c.model.scale_by_sigma = False
    c.model.fourier_scale = 1.0  # the input is log(sigma) / 4, which spans only about 2
    c.training.objective = "edm"
    c.training.reduce_mean = True


@part("sampler")
def heun(c: ml_collections.ConfigDict) -> None:
    """The sampler of Karras et al. 2022: Heun's rule on their grid, 18 steps, 35 evaluations."""
    c.sampling.method = "heun"
    c.sampling.steps = 18


@part("data")
def points(c: ml_collections.ConfigDict) -> None:
    """Points in the plane, with a schedule that takes two CPU cores a few minutes."""
    d = c.data
    d.kind = "points"
    d.dataset = "gaussians"
    d.num_channels = 2
    d.random_flip = False
    d.num_threads = 2
    c.model.sigma_data = 1.0
    c.model.ema_rate = 0.99
    c.model.ema_warmup = True
    t = c.training
    t.batch_size = 512
    t.n_iters = 3000
    t.n_jitted_steps = 10
    t.log_freq = 100
    t.eval_freq = 100
    t.snapshot_freq = 3000
    t.snapshot_freq_for_preemption = 1000
    c.optim.lr = 2e-3
    c.optim.warmup = 100
    c.optim.schedule = "cosine"
    c.sampling.steps = 200
    e = c.eval
    e.batch_size = 1000
    e.num_samples = 1000
    e.bpd_estimator = "exact"


@part("data")
def series(
    c: ml_collections.ConfigDict,
    length: int,
    delay: int,
    size: int | tuple[int, int],
    n_iters: int = 2400,
) -> None:
    """Series as images of a size, by delay embedding, with a network for two CPU cores."""
    d = c.data
    d.kind = "series"
    d.dataset = "series"
    d.length = length
    d.num_channels = 1
    d.embedding = "delay"
    d.delay = delay
    d.image_size = size
    d.random_flip = False
    small(c, n_iters)
    c.eval.mask = "last"


@part("data")
def lorenz63(c: ml_collections.ConfigDict) -> None:
    """Windows of 5 states of Lorenz 63, preprocessed as published, and its `lo` observations.

    The first component of every eighth of 65 states is observed with a noise of 0.05 times its
    scale of 8. gamma is the published 0.03 in units of the preprocessed component.
    """
    d = c.data
    d.kind = "series"
    d.dataset = "lorenz63"
    d.length = 5
    d.num_channels = 3
    d.mean, d.scale = (0.0, 0.0, 25.0), (8.0, 9.0, 8.6)
    d.random_flip = False
    c.model.sigma_data = 1.0
    e = c.eval
    e.states = 65
    e.observation = "component"
    e.observe_every = 8
    e.measurement_std = 0.4
    e.gamma = 0.03 * 8**2
    e.windows_at_once = 0
    e.num_conditioned = 1
    e.samples_per_image = 256
    e.batch_size = 256


@part("data")
def kolmogorov(c: ml_collections.ConfigDict) -> None:
    """Windows of 5 states of Kolmogorov flow at 64x64, and a scenario of observations."""
    d = c.data
    d.kind = "fields"
    d.dataset = "trajectories"
    d.dir = "data/kolmogorov"
    d.length = 5
    d.image_size = 64
    d.num_channels = 2
    d.random_flip = False
    c.model.sigma_data = 1.0
    c.model.forcing = 4
    c.eval.gamma = 0.01
    c.eval.zeta = 1.0
    c.eval.num_conditioned = 1
    c.eval.samples_per_image = 8
    c.eval.batch_size = 8
    c.update_from_flattened_dict(VARIANTS["fields"]["coarse"])


@part("size")
def small_flow(c: ml_collections.ConfigDict) -> None:
    """Fewer trajectories of a coarser solver, and a smaller U-Net, for two CPU cores."""
    c.data.dir = "data/kolmogorov_small"
    c.data.random_symmetry = True
    s = c.simulation
    s.trajectories = 32
    s.states = 128
    s.resolution = 128
    m = c.model
    m.patch = 2
    m.nf = 64
    m.ch_mult = (1, 2)
    m.num_res_blocks = 2
    m.embedding_type = "fourier"
    m.ema_rate = 0.999
    m.ema_warmup = True
    t = c.training
    t.p_mean = -0.7
    t.p_std = 1.8
    t.batch_size = 4
    t.n_iters = 15_000
    t.eval_freq = 1000
    t.log_freq = 50
    t.snapshot_freq = 5000
    t.snapshot_freq_for_preemption = 400
    c.optim.lr = 1e-3
    c.optim.warmup = 50
    c.optim.schedule = "cosine"
    c.eval.likelihood_iterations = 2
    c.sampling.steps = 128
    c.sampling.n_steps_each = 1
    c.sampling.snr = 0.25
    c.sampling.corrector_min = 0.03
    c.sampling.corrector_max = 4.0


@part("data")
def ou(c: ml_collections.ConfigDict) -> None:
    """Ornstein-Uhlenbeck paths of 253 points as images of 8x32."""
    series(c, 253, 8, (8, 32), 6000)
    c.data.dataset = "ou"
    t = c.training
    t.p_mean = -2.0  # the volatility of a path is decided at sigma 0.02 to 0.2
    t.p_std = 1.4


@part("size")
def small(c: ml_collections.ConfigDict, n_iters: int) -> None:
    """An NCSN++ for images of about 30 pixels, with a schedule that takes two CPU cores minutes."""
    m = c.model
    m.nf = 16
    m.ch_mult = (1, 2, 4)
    m.num_res_blocks = 1
    m.attn_resolutions = (height_and_width(c.data.image_size)[0] // 4,)
    m.dropout = 0.0
    m.ema_rate = 0.99
    m.ema_warmup = True
    t = c.training
    t.batch_size = 32
    t.n_iters = n_iters
    t.log_freq = 20
    t.eval_freq = 100
    t.snapshot_freq = n_iters
    t.snapshot_freq_for_preemption = 200
    c.optim.lr = 2e-3
    c.optim.warmup = 50
    c.optim.schedule = "cosine"
    c.sampling.steps = 200 if c.sampling.corrector == "none" else 100  # 200 evaluations either way
    c.sampling.snr = 0.22
    c.eval.batch_size = 64
    c.eval.num_samples = 64


@part("data")
def mnist(c: ml_collections.ConfigDict) -> None:
    """28-pixel digits, with a network that trains in ten minutes on two CPU cores."""
    c.data.dataset = "mnist"
    c.data.image_size = 28
    c.data.num_channels = 1
    c.data.random_flip = False
    small(c, 2400)
    m, t = c.model, c.training
    scale = 2.0 if c.data.centered else 1.0  # width of the model's range, [-1, 1] or [0, 1]
    m.sigma_max = 16.0 * scale  # the largest distance between two of these digits is 15.8
    m.sigma_data = 0.33 * scale
    t.p_mean = math.log(scale)  # digits take shape at sigma 0.5 to 5
    t.p_std = 1.4
    c.eval.features = "classifier"  # trained when first needed, nothing to download
    c.eval.likelihood = "pigdm"  # better on digits than "mmps", and cheaper
    c.eval.known_likelihood = "pigdm"
    c.guidance.classifier = "pretrained/mnist_classifier"
    c.guidance.weight = 15.0  # 63 of 64 samples have the requested class; classifier-free: 1 to 3


@part("objective")
def classifier(c: ml_collections.ConfigDict) -> None:
    """A noise classifier for the noise levels of the VE SDE, instead of a score network."""
    ve(c)
    c.training.objective = "classifier"
    c.model.num_classes = 10
    c.model.scale_by_sigma = False
    c.eval.tasks = ("accuracy",)


@part("data")
def photographs(c: ml_collections.ConfigDict) -> None:
    """32-pixel tiles of the photographs that come with scikit-image."""
    c.data.dataset = "photographs"
    c.data.image_size = 32
    c.data.num_channels = 3


@part("objective")
def denoiser(c: ml_collections.ConfigDict) -> None:
    """A small CNN that knows the score of images in [0, 1] only at noise level 0.1."""
    ve(c)
    m = c.model
    m.name = "denoising_cnn"
    m.parametrization = "score"
    m.nf = 64
    m.ch_mult = (1, 2)
    m.sigma_max = 0.1  # the noise level
    t = c.training
    t.objective = "last_level"
    t.reduce_mean = True
    t.snapshot_sampling = False  # a score at one noise level does not suffice to draw samples
    c.optim.lr = 1e-4
    c.optim.warmup = 0
    c.optim.grad_clip = -1.0
    e = c.eval
    e.tasks = ("denoise",)
    e.noise_std = m.sigma_max
    e.denoisers = ("langevin", "tweedie")
    e.num_denoised = 256


@part("objective")
def offline_denoiser(c: ml_collections.ConfigDict) -> None:
    """`denoiser` for two CPU cores: trains in minutes with fewer, larger steps, smaller batches."""
    denoiser(c)
    c.model.ema_rate = 0.99
    c.model.ema_warmup = True
    t = c.training
    t.batch_size = 32
    t.n_iters = 1000
    t.log_freq = 50
    t.eval_freq = 100
    t.snapshot_freq = 1000
    t.snapshot_freq_for_preemption = 200
    c.optim.lr = 1e-3
    c.optim.schedule = "cosine"


@part("variant")
def smoke(c: ml_collections.ConfigDict) -> None:
    """A tiny variant of any config, seconds on a CPU: images become scikit-learn's digits."""
    d = c.data
    d.dir = ""
    d.image_size = 8
    if d.kind == "images":
        d.dataset = "digits"
        d.num_channels = 1
    elif d.kind == "series":
        d.dataset = "sines" if d.dataset == "series" else d.dataset
        d.length = 24 if d.embedding else 3
        d.delay = 3
    elif d.kind == "fields":
        d.dataset = "waves"
        d.length = 3
    c.eval.features = "classifier"
    c.guidance.classifier = ""
    m = c.model
    m.nf = 32 if m.name == "ddpm" else 8  # the normalisation of DDPM has 32 groups
    m.ch_mult = (1, 2)
    m.num_res_blocks = 1
    m.attn_resolutions = (4,)
    m.color_mean = m.color_std = ()  # the digits are grey
    t = c.training
    t.batch_size = 8
    t.n_iters = 20
    t.n_jitted_steps = min(t.n_jitted_steps, 2)
    t.log_freq = 4
    t.eval_freq = 10
    t.snapshot_freq = 10
    t.snapshot_freq_for_preemption = 10
    c.optim.warmup = 4
    c.sampling.steps = 50 if c.sampling.method == "pc" else 5
    c.sampling.n_steps_each = min(c.sampling.n_steps_each, 2)
    c.eval.batch_size = 16
    c.eval.num_samples = 16
    c.eval.recurrent_steps = 20
    c.eval.states = min(c.eval.states, 9)
    c.eval.samples_per_image = min(c.eval.samples_per_image, 8)
    c.eval.operator_factor = min(c.eval.operator_factor, 4)
    c.eval.frames = 8


def finish(c: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Applies the variant given by `--config FILE:variant`, and returns the config.

    Variants are "smoke" and the rows of `VARIANTS` for the kind of data.

    Raises:
      ValueError: for an unknown variant.
    """
    rows = VARIANTS.get(c.data.kind, {})
    if variant not in ("", "smoke", *rows):
        forms = " or ".join(f"FILE:{name}" for name in ("smoke", *rows))
        raise ValueError(f"unknown config variant {variant!r}; write FILE or {forms}")
    if variant == "smoke":
        smoke(c)
    elif variant:
        c.update_from_flattened_dict(rows[variant])
    return c


def _observed(observation: str, states: int, std: float, **other: float) -> dict[str, Any]:
    """The keys of a scenario; unless it says otherwise, every state is observed."""
    keys = {
        "observation": observation,
        "states": states,
        "measurement_std": std,
        "observe_every": 1,
    }
    return {f"eval.{key}": value for key, value in (keys | other).items()}


# kind of data -> variant -> keys that it sets
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    # Completing a series by resampling (RePaint) stays on the path where likelihoods leave it.
    "series": {
        "complete": {
            "eval.tasks": ("inpaint",),
            "eval.known_likelihood": "",
            "eval.resampling_steps": 10,
            "eval.resampling_jump": 1,
            "sampling.method": "pc",
            "sampling.steps": 40,
        }
    },
    # The scenarios of Rozet & Louppe 2023, section 5, and of the code of its figures
    "fields": {
        "coarse": _observed("coarse", 29, 0.1, operator_factor=8, observe_every=4),
        "extrapolation": _observed("patch", 8, 0.01, operator_factor=4, observe_every=3),
        "saturation": _observed("saturation", 8, 0.05, operator_factor=2),
        **{
            f"subsample_{f}": _observed("subsample", 8, 0.1, operator_factor=f)
            for f in (2, 4, 8, 16)
        },
        "ring": _observed("ring", 8, 0.2),
        "loop": _observed("loop", 127, 0.01, gamma=0.1),
    },
}
