"""Every configuration key, declared once with its type, its unit and what it means.

An experiment is `get_config()` plus the parts of `configs/parts.py` plus its own deltas. The value
given here fixes the type of the key: a float key takes `50.` and never `50` from a file, and the
command line converts (`--config.optim.lr=1e-3`). Section and key names are those of score_sde.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns a new, unlocked config with every key at its default."""
    c = ml_collections.ConfigDict()
    c.seed = 42  # of initialisation, data order, noise and samples

    c.training = t = ml_collections.ConfigDict()
    t.sde = "vesde"  # a row of sde_lib.SDES
    t.continuous = True  # continuous times; False: the discrete SMLD or DDPM loss
    t.objective = "score"  # "score": Song et al. 2021; else a row of noise_levels.OBJECTIVES
    t.likelihood_weighting = False  # weight g(t)^2 instead of std(t)^2; objective "score" only
    t.importance_sampling = False  # draw times as often as that weight says: less variance
    t.reduce_mean = True  # mean over the data dimensions; False: half their sum
    t.p_mean = -1.2  # objective "edm": mean of log sigma
    t.p_std = 1.2  # objective "edm": standard deviation of log sigma
    t.batch_size = 128  # over all devices and processes
    t.n_iters = 1_300_000  # steps
    t.n_jitted_steps = 1  # steps in one call of the compiled step
    t.log_freq = 50  # steps between log lines and scalars
    t.eval_freq = 100  # steps between evaluations of the loss on one held-out batch
    t.snapshot_freq = 50_000  # steps between checkpoints that are kept
    t.snapshot_freq_for_preemption = 10_000  # steps between checkpoints that replace each other
    t.snapshot_sampling = True  # draw a grid of samples with every kept checkpoint

    c.sampling = s = ml_collections.ConfigDict()
    s.method = "pc"  # a row of sampling.SAMPLERS
    s.predictor = "reverse_diffusion"  # a row of sampling.PREDICTORS
    s.corrector = "langevin"  # a row of sampling.CORRECTORS
    s.steps = 0  # time steps; 0: "pc": model.num_scales, few-step solvers: 18 or 20
    s.eps = 0.0  # time at which sampling stops; 0: the SDE's own t_min
    s.n_steps_each = 1  # corrector steps at each time
    s.snr = 0.16  # signal-to-noise ratio of the corrector
    s.probability_flow = False  # leave the predictor's noise out
    s.noise_removal = True  # return the mean of the last step, without its noise
    s.grid = ""  # of the few-step solvers: a row of solvers.TIME_GRIDS; "": the solver's own
    s.rho = 7.0  # grid "edm": its exponent; larger puts more of the steps near the data
    s.order = 2  # "unipc": 1, 2 or 3
    s.s_churn = 0.0  # "heun": noise added in each step, in EDM's terms; 0: none
    s.s_min = 0.05  # "heun": smallest level sigma / mu at which noise is added
    s.s_max = 50.0  # "heun": largest level sigma / mu at which noise is added
    s.s_noise = 1.003  # "heun": factor of the noise added
    s.abs_tol = 0.0078  # "adaptive_sde": one 8-bit level of data in [-1, 1]; half of it in [0, 1]
    s.rel_tol = 0.05  # "adaptive_sde": relative to each pixel
    s.ode_solver = "tsit5"  # "ode", encoding, bits/dim: a row of solvers.ODE_SOLVERS
    s.error_control = "batch"  # of the same: "batch": steps in common; "sample": for each its own
    s.rtol = 1e-5  # "ode", encoding: relative tolerance of a step
    s.atol = 1e-5  # "ode", encoding: absolute tolerance of a step

    c.eval = e = ml_collections.ConfigDict()
    e.tasks = ("samples",)  # rows of evaluators.EVALUATORS
    e.checkpoint = ""  # what to evaluate: a step, exported weights (a path); "": the latest step
    e.batch_size = 64  # samples, or examples, at a time
    e.num_samples = 64  # samples in all
    e.frames = 40  # pictures in the GIF of the reverse process; 0: no GIF
    e.features = "inception"  # a row of metrics.features.FEATURES: inception (FID), classifier (FD)
    e.inception_path = ""  # the file pt_inception-2015-12-05-6726825d.pth of pytorch-fid
    e.features_path = ""  # where the classifier is kept; "": data/classifiers/DATASET-...
    e.stats = ""  # reference statistics, by tools.compute_stats; "": made of all training images
    e.split = "test"  # whose images "loss", "bpd", "encode" and "interpolate" take: test, train
    e.num_examples = 0  # images that "loss" and "bpd" are means over; 0: the whole split
    e.num_encoded = 16  # images that "encode" turns into latents and back
    e.num_pairs = 4  # pairs of images that "interpolate" goes between
    e.num_points = 9  # images on the way between two, both ends counted
    e.noise_std = 0.1  # "denoise": standard deviation of the noise added, for images in [0, 1]
    e.denoisers = ("tweedie",)  # "denoise": rows of conditioning.DENOISERS
    e.num_denoised = 64  # images that "denoise" takes
    e.langevin_eta = 1e-4  # denoiser "langevin": step; published for noise 0.1 in [0, 1]
    e.langevin_steps = 200  # denoiser "langevin": steps
    e.images = ""  # folder whose images "denoise", "inpaint", ... take; "": those of eval.split
    e.num_conditioned = 8  # images that these take
    e.samples_per_image = 8  # samples that they draw for each
    e.mask = "box"  # "inpaint", operator "mask": of conditioning.MASKS, or a PNG (white: known)
    e.mask_amount = "light"  # fraction hidden by masks of any size: a row of conditioning.AMOUNTS
    e.resampling_steps = 0  # "inpaint" with "pc": RePaint's returns, for the corrector; 0: none
    e.resampling_jump = 10  # steps of each return
    e.known_likelihood = "mmps"  # "inpaint", "colorize": steers besides imposing; "": none
    e.color_basis = "rgb_mean"  # "colorize", operator "grayscale": of conditioning.COLOR_BASES
    e.operator = "block_mean"  # "restore": a row of conditioning.OPERATORS
    e.operator_factor = 4  # "block_mean": pixels of a block's side
    e.operator_width = 1.5  # "gaussian_blur": its standard deviation in pixels
    e.operator_length = 9.0  # "motion_blur": pixels
    e.operator_angle = 45.0  # "motion_blur": degrees, anticlockwise from the rows
    e.operator_fraction = 0.25  # "random_projection": their number / values of an image
    e.measurement_std = 0.05  # "restore": standard deviation of the noise, for images in [0, 1]
    e.likelihood = "mmps"  # "restore": a row of conditioning.LIKELIHOODS
    e.likelihood_iterations = 0  # of conjugate gradients; 0: "pigdm" 20, "mmps" 3
    e.gamma = 0.1  # "sda": some 0.1 |A A^T|; for means of f x f pixels, 0.1 / f^2
    e.zeta = 30.0  # "dps": strength
    e.data_variance = 0.1  # "pigdm": variance of the data, for images in [0, 1]
    e.bpd_estimator = "rademacher"  # of the divergence: a row of likelihood.ESTIMATORS
    e.bpd_probes = 1  # probes an image; 2 or more show their standard error
    e.bpd_repeats = 1  # passes over the data, each with other noise; score_sde makes 5 on "test"
    e.bpd_eps = 1e-5  # time at which the data are taken to be
    e.bpd_rtol = 1e-5  # relative tolerance of a step
    e.bpd_atol = 1e-5  # absolute tolerance of a step

    c.guidance = g = ml_collections.ConfigDict()
    g.classifier = ""  # workdir or exported weights of one; "": none, classifier-free guidance
    g.checkpoint = ""  # step of its run; "": the latest
    g.schedule = "constant"  # weight as a function of sigma / mu: a row of conditioning.WEIGHTS
    g.weight = 1.0  # of the class; 1: as likely as in the data; more stresses it
    g.weight_beyond = 0.0  # "linear": at sigma_max and above; "interval": outside of it
    g.sigma_min = 0.0  # "linear", "interval": lower end
    g.sigma_max = 0.0  # "linear", "interval": upper end; 0: no end
    g.clamp = 0.0  # largest level that the classifier is told; 0: that of its training
    g.labels = ()  # classes drawn in turns; (): all

    c.data = d = ml_collections.ConfigDict()
    d.dataset = "mnist"  # a row of datasets.DATASETS
    d.dir = ""  # where its files are; "": the data set's own default
    d.category = ""  # LSUN: bedroom, church_outdoor
    d.image_size = 32  # pixels, height and width
    d.num_channels = 3
    d.centered = False  # data in [-1, 1]; False: in [0, 1]
    d.random_flip = True  # mirror half of the training images left to right
    d.random_shift = 0  # pixels, up, down, left and right, that training images move at most
    d.uniform_dequantization = False  # (255 x + u) / 256, u uniform in [0, 1)
    d.num_threads = 4  # threads that read and decode

    c.model = m = ml_collections.ConfigDict()
    m.name = "ncsnpp"  # a row of models.utils.MODELS, or to train a classifier of CLASSIFIERS
    m.parametrization = "score_sde"  # a row of models.utils.PARAMETRIZATIONS
    m.sigma_data = 0.5  # parametrization, objective "edm": standard deviation of the data
    m.sigma_min = 0.01  # VE: smallest noise level
    m.sigma_max = 50.0  # VE: largest noise level
    m.sigma_base = 25.0  # sigma^t SDE: its sigma
    m.beta_min = 0.1  # VP, sub-VP: beta(0)
    m.beta_max = 20.0  # VP, sub-VP: beta(1)
    m.eta = 1e-3  # cosine VP: noise left at t = 0, signal left at t = 1
    m.num_scales = 1000  # noise levels N of the discretised SDE
    m.ema_rate = 0.999  # decay of the averaged parameters
    m.ema_warmup = False  # decay min(ema_rate, (1 + n) / (10 + n)) at the n-th update
    m.dropout = 0.1  # rate in every residual block
    m.nf = 128  # channels at full resolution
    m.ch_mult = (1, 2, 2, 2)  # channels / nf at each resolution, fine to coarse
    m.num_res_blocks = 4  # residual blocks a resolution
    m.attn_resolutions = (16,)  # image sizes (pixels) with self-attention
    m.normalization = "GroupNorm"  # of "ddpm" and "ncsn*": a row of models.layers.NORMALIZATIONS
    m.interpolation = "bilinear"  # "ncsn*": how feature maps grow: bilinear, nearest_neighbor
    m.original = "pytorch"  # "ncsn*": which of the two originals to follow: pytorch, jax
    m.nonlinearity = "swish"  # elu, relu, lrelu, swish
    m.resamp_with_conv = True  # a convolution in each resampling layer of "ddpm" blocks
    m.conditional = True  # the network sees the noise level
    m.num_classes = 0  # classes of the data that the network is told of; 0: none
    m.label_dropout = 0.1  # probability of hiding an example's class in training
    m.fir = True  # resample with the filter below; False: mean and nearest neighbour
    m.fir_kernel = (1, 3, 3, 1)  # taps of the separable filter, normalised to sum 1
    m.skip_rescale = True  # residual sums times 1/sqrt(2)
    m.resblock_type = "biggan"  # biggan, ddpm
    m.progressive = "none"  # output pyramid: none, output_skip, residual
    m.progressive_input = "none"  # input pyramid: none, input_skip, residual
    m.progressive_combine = "sum"  # how input_skip joins: sum, cat
    m.embedding_type = "fourier"  # of the noise level: fourier, positional
    m.fourier_scale = 16.0  # standard deviation of the Fourier frequencies
    m.init_scale = 0.0  # scale of the last convolutions at initialisation; 0 stands for 1e-10
    m.color_mean = ()  # "wideresnet": means and standard deviations of the colours of data in
    m.color_std = ()  # [0, 1], to normalise them; (): neither
    m.scale_by_sigma = False  # divide the network's output by sigma
    m.dtype = "float32"  # of activations: float32, bfloat16; parameters and norms stay float32
    m.remat = False  # recompute each block in the backward pass: less memory, more time

    c.optim = o = ml_collections.ConfigDict()
    o.optimizer = "Adam"  # a row of losses.OPTIMIZERS
    o.lr = 2e-4  # learning rate after warm-up
    o.schedule = "constant"  # after warm-up: constant, cosine (to 0 at n_iters)
    o.warmup = 5000  # steps of linear warm-up from 0
    o.beta1 = 0.9
    o.beta2 = 0.999
    o.eps = 1e-8
    o.weight_decay = 0.0  # decoupled (AdamW)
    o.grad_clip = 1.0  # largest global gradient norm; negative: no clipping
    return c
