"""Every configuration key, declared once with its type, unit and meaning.

An experiment is `get_config()` plus some parts of `configs/parts.py` plus a few values of its own.
The value given here fixes the type of the key: in a config file, a float key takes `50.0` and not
`50`, while the command line converts values (`--config.optim.lr=1e-3`). Sections and keys have the
same names as in score_sde.
"""

import ml_collections
from ml_collections import FieldReference


def get_config() -> ml_collections.ConfigDict:
    """Returns a new, unlocked config with every key at its default."""
    c = ml_collections.ConfigDict()
    c.seed = 42  # seed of initialisation, data order, noise and samples

    c.training = t = ml_collections.ConfigDict()
    t.sde = "vesde"  # a row of sde_lib.SDES
    t.continuous = True  # continuous times; False: the discrete SMLD or DDPM loss
    t.objective = "score"  # "score": Song et al. 2021; or a row of noise_levels.OBJECTIVES
    t.likelihood_weighting = False  # weight g(t)^2 instead of std(t)^2; only objective "score"
    t.importance_sampling = False  # draw times in proportion to that weight, for less variance
    t.reduce_mean = True  # mean over the data dimensions; False: half their sum
    t.p_mean = -1.2  # objective "edm": mean of log sigma
    t.p_std = 1.2  # objective "edm": standard deviation of log sigma
    t.batch_size = 128  # over all devices and processes
    t.accumulate = 1  # parts of a batch whose gradients are computed one after the other
    t.n_iters = 1_300_000  # training steps
    t.max_skipped = 10  # steps skipped because loss or gradient are not finite; with more it stops
    t.n_jitted_steps = 1  # steps in one call of the compiled function
    t.log_freq = 50  # steps between log lines and scalars
    t.eval_freq = 100  # steps between evaluations of the loss on one held-out batch
    t.snapshot_freq = 50_000  # steps between checkpoints that are kept
    t.snapshot_freq_for_preemption = 10_000  # steps between checkpoints that replace each other
    t.init_from = ""  # start from these weights: a run, exported or published ones; "": at random
    t.snapshot_sampling = True  # draw a grid of samples with every kept checkpoint
    t.wandb = ""  # project of Weights & Biases that is logged to as well; "": TensorBoard alone
    t.profile_steps = 0  # steps whose trace is written for TensorBoard's profiler; 0: none

    c.parallel = p = ml_collections.ConfigDict()
    p.strategy = "pmap"  # "sharded": each device holds a part of the state, for big networks

    c.sampling = s = ml_collections.ConfigDict()
    s.method = "pc"  # a row of sampling.SAMPLERS
    s.predictor = "reverse_diffusion"  # a row of sampling.PREDICTORS
    s.corrector = "langevin"  # a row of sampling.CORRECTORS
    s.steps = 0  # time steps; 0: "pc": model.num_scales, few-step solvers: 18 or 20
    s.eps = 0.0  # time at which sampling stops; 0: the SDE's t_min
    s.n_steps_each = 1  # corrector steps at each time
    s.snr = 0.16  # signal-to-noise ratio of the corrector; "adaptive_langevin": tau
    s.probability_flow = False  # make the predictor deterministic
    s.noise_removal = True  # return the mean of the last step, without its noise
    s.corrector_min = 0.0  # "pc": smallest and largest sigma / mu at which the corrector acts;
    s.corrector_max = 0.0  # 0: no upper end
    s.corrector_last = False  # "pc": correct after the predictor's step instead of before it
    s.grid = ""  # few-step solvers: a row of solvers.TIME_GRIDS; "": the solver's default
    s.rho = 7.0  # grid "edm": exponent; a larger one puts more of the steps near the data
    s.order = 2  # "unipc": 1, 2 or 3
    s.s_churn = 0.0  # "heun": noise added in each step, in EDM's terms; 0: none
    s.s_min = 0.05  # "heun": smallest level sigma / mu at which noise is added
    s.s_max = 50.0  # "heun": largest level sigma / mu at which noise is added
    s.s_noise = 1.003  # "heun": factor of the added noise
    s.abs_tol = 0.0078  # "adaptive_sde": one 8-bit level of data in [-1, 1]; half of it in [0, 1]
    s.rel_tol = 0.05  # "adaptive_sde": relative to each pixel
    s.ode_solver = "tsit5"  # "ode", encoding, bits/dim: a row of solvers.ODE_SOLVERS
    s.error_control = "batch"  # same uses: "batch": common steps; "sample": steps for each sample
    s.rtol = 1e-5  # "ode", encoding: relative tolerance of a step
    s.atol = 1e-5  # "ode", encoding: absolute tolerance of a step

    c.eval = e = ml_collections.ConfigDict()
    e.tasks = ("samples",)  # rows of evaluators.EVALUATORS
    e.checkpoint = ""  # a step, or the path of exported weights; "": the latest step
    e.batch_size = 64  # samples, or examples, at a time
    e.num_samples = 64  # number of samples
    e.recurrent_steps = 2000  # "series": training steps of each of its scores; 0: no scores
    e.save_images = False  # write samples as separate PNG files, too
    e.frames = 40  # pictures in the GIF of the reverse process; 0: no GIF
    e.features = "inception"  # inception (FID), classifier (FD by the judge, metrics/judge.py)
    e.inception_path = ""  # the file pt_inception-2015-12-05-6726825d.pth of pytorch-fid
    e.features_path = ""  # file of the judge's weights; "": data/classifiers/DATASET-...
    e.stats = (
        ""  # reference: file of tools.compute_stats, pytorch-fid or EDM, or a folder; "": data
    )
    e.split = "test"  # images used by tasks such as "loss", "bpd" and "encode": test, train
    e.num_examples = 0  # "loss", "bpd", "accuracy": number of images; 0: the whole split
    e.num_encoded = 16  # "encode": number of images
    e.num_pairs = 4  # "interpolate": number of pairs of images
    e.num_points = 9  # "interpolate": images from one to the other, including both ends
    e.noise_std = 0.1  # "denoise": standard deviation of the added noise, for images in [0, 1]
    e.denoisers = ("tweedie",)  # "denoise": rows of conditioning.DENOISERS
    e.num_denoised = 64  # "denoise": number of images of the split
    e.langevin_eta = 1e-4  # denoiser "langevin": step size; published for noise 0.1 in [0, 1]
    e.langevin_steps = 200  # denoiser "langevin": number of steps
    e.images = ""  # images for "denoise", "inpaint", "colorize", "restore": a folder; "": the split
    e.measurements = ""  # same tasks: a folder of pictures that are measured already; "": none
    e.num_conditioned = 8  # "inpaint", "colorize", "restore": number of images of the split
    e.samples_per_image = 8  # "inpaint", "colorize", "restore": samples drawn for each image
    e.mask = "box"  # "inpaint", operator "mask": a row of conditioning.MASKS, or a picture of a
    # mask; of series: a row of conditioning.masks.SERIES_MASKS
    e.mask_points = 0  # "inpaint" of series: number of hidden points; 0: a quarter of them
    e.mask_channels = ()  # "inpaint" of series: numbers of the channels with a gap; (): all
    e.mask_amount = "light"  # how much is hidden by growing masks: a row of conditioning.AMOUNTS
    e.resampling_steps = 0  # "inpaint", "colorize" with "pc": RePaint's resamplings; 0: none
    e.resampling_jump = 10  # steps forward and back in each resampling
    e.known_likelihood = "mmps"  # "inpaint", "colorize": likelihood besides projection; "": none
    e.color_basis = "rgb_mean"  # "colorize", operator "grayscale": row of conditioning.COLOR_BASES
    e.operator = "block_mean"  # "restore": a row of conditioning.OPERATORS
    e.operator_factor = 4  # "block_mean", observations of fields: side of a block in pixels
    e.operator_width = 1.5  # "gaussian_blur": standard deviation in pixels
    e.operator_length = 9.0  # "motion_blur": length in pixels
    e.operator_angle = 45.0  # "motion_blur": degrees, anticlockwise from horizontal
    e.operator_fraction = 0.25  # "random_projection": number of projections / values of an image
    e.measurement_std = 0.05  # "restore": standard deviation of the noise, for images in [0, 1];
    # "assimilate": in units of the data
    e.likelihood = "mmps"  # "restore", "assimilate": a row of conditioning.LIKELIHOODS
    e.states = 0  # "assimilate": states of a trajectory; 0: as many as the network's window
    e.observation = "coarse"  # "assimilate": a row of conditioning.OBSERVATIONS
    e.observe_every = 1  # "assimilate": observe every so many states
    e.observe_component = 0  # observation "component": number of the component
    e.windows_at_once = 64  # "assimilate": windows in one call of the network; 0: all of them
    e.likelihood_iterations = 0  # GMRES iterations; 0: 20 for "pigdm", 3 for "mmps"
    e.gamma = 0.1  # "sda": about 0.1 |A A^T|, which is 0.1 / f^2 for means of f x f pixels
    e.zeta = 30.0  # "dps": strength
    e.data_variance = 0.1  # "pigdm": variance of the data, for images in [0, 1]
    e.bpd_estimator = "rademacher"  # estimates the divergence: a row of likelihood.ESTIMATORS
    e.bpd_probes = 1  # probes per image; with 2 or more there is a standard error
    e.bpd_repeats = 1  # passes over the data with different noise; score_sde makes 5 on "test"
    e.bpd_eps = 1e-5  # time assigned to the data
    e.bpd_rtol = 1e-5  # relative tolerance of a step
    e.bpd_atol = 1e-5  # absolute tolerance of a step

    c.guidance = g = ml_collections.ConfigDict()
    g.classifier = ""  # run or exported weights of a noise classifier; "": classifier-free guidance
    g.checkpoint = ""  # step of the classifier's run; "": the latest
    g.schedule = "constant"  # weight as a function of sigma / mu: a row of conditioning.WEIGHTS
    g.weight = 1.0  # 1: classes as in the data; a larger weight emphasises the class
    g.weight_beyond = 0.0  # weight above sigma_max ("linear"), outside the interval ("interval")
    g.sigma_min = 0.0  # "linear", "interval": lower end
    g.sigma_max = 0.0  # "linear", "interval": upper end; 0: no upper end
    g.clamp = 0.0  # largest level passed to the classifier; 0: the largest of its training
    g.labels = ()  # classes to draw in turn, by number or name; (): all classes

    c.data = d = ml_collections.ConfigDict()
    d.kind = "images"  # what an example is: a row of utils.shapes.KINDS
    d.dataset = "mnist"  # a row of datasets.DATASETS
    d.dir = ""  # folder or file of the data; "": the data set's default
    d.category = ""  # LSUN: bedroom, church_outdoor
    d.image_size = FieldReference(32, field_type=object)  # pixels of a square, or (height, width)
    d.num_channels = 3
    d.background = "white"  # behind transparent pixels of 1 or 3 channels: white, black, refuse
    d.value_range = ()  # values of black and white; (): the full range of bytes, 16 bits or [0, 1]
    d.classes = ()  # names of the classes in the order of their labels; training fills it in
    d.length = 0  # series, fields: number of points in time
    d.stride = 1  # "series": number of points by which windows of a file are shifted
    d.columns = ()  # "series": names of the columns of a table that are used; (): all of them
    d.embedding = ""  # series as images: a row of utils.embeddings.EMBEDDINGS; "": as they are
    d.delay = 8  # embedding "delay": points from one column of an image to the next
    d.n_fft = 63  # embedding "stft": points in a window
    d.hop = 23  # embedding "stft": points from one window to the next
    d.mean = ()  # of the training data, unless they are images; training fills it in
    d.scale = ()  # the model's range is (x - mean) / scale; training fills it in
    d.centered = False  # images: the model's range is [-1, 1]; False: [0, 1]
    d.random_flip = True  # mirror half of the training images left to right
    d.random_shift = 0  # largest random shift of training images, in pixels along each axis
    d.random_symmetry = False  # fields: apply random symmetries of Kolmogorov flow
    d.uniform_dequantization = False  # (255 x + u) / 256, u uniform in [0, 1)
    d.num_threads = 4  # threads that read and decode

    c.simulation = f = ml_collections.ConfigDict()  # tools.make_trajectories
    f.trajectories = 1024  # number of trajectories
    f.states = 64  # states kept of each
    f.warm_up = 64  # states dropped before
    f.interval = 0.2  # time between two states
    f.resolution = 256  # points of the solver along each axis; a multiple of data.image_size
    f.viscosity = 1e-3  # 1 / Reynolds number
    f.drag = 0.1  # rate at which the velocity is damped
    f.wavenumber = 4  # of the forcing
    f.inner_steps = 0  # steps of the solver between two states; 0: from the CFL limit

    c.model = m = ml_collections.ConfigDict()
    m.name = "ncsnpp"  # a row of models.utils.MODELS, or of CLASSIFIERS for objective "classifier"
    m.parametrization = "score_sde"  # a row of models.utils.PARAMETRIZATIONS
    m.sigma_data = 0.5  # standard deviation of the data: for "edm"; of other data than images
    m.sigma_min = 0.01  # VE: smallest noise level
    m.sigma_max = 50.0  # VE: largest noise level
    m.sigma_base = 25.0  # sigma^t SDE: sigma
    m.beta_min = 0.1  # VP, sub-VP: beta(0)
    m.beta_max = 20.0  # VP, sub-VP: beta(1)
    m.eta = 1e-3  # "cosine": noise left at t = 0, signal left at t = 1
    m.signal = "cos"  # "cosine": how the signal falls, a row of utils.schedules.SIGNALS
    m.noise = "vp"  # "cosine": how the noise grows with it, a row of utils.schedules.NOISES
    m.num_scales = 1000  # noise levels N of the discretised SDE
    m.ema_rate = 0.999  # decay of the averaged parameters
    m.ema_warmup = False  # use the decay min(ema_rate, (1 + n) / (10 + n)) at update n
    m.dropout = 0.1  # rate in every residual block
    m.nf = 128  # channels at full resolution
    m.ch_mult = (1, 2, 2, 2)  # channels / nf at each resolution, fine to coarse
    m.num_res_blocks = 4  # residual blocks per resolution
    m.attn_resolutions = (16,)  # image sizes (pixels) with self-attention
    m.normalization = "GroupNorm"  # "ddpm", "ncsn*": a row of models.layers.NORMALIZATIONS
    m.interpolation = "bilinear"  # "ncsn*": upsampling: bilinear, nearest_neighbor
    m.forcing = 0  # "fields": wavenumber of the forcing that the network is shown; 0: none
    m.dilations = (1, 2, 4, 8, 16)  # "dilated": distances of taps, in each of num_res_blocks cycles
    m.patch = 1  # "fields": the network sees squares of so many pixels along each side as one pixel
    m.original = "pytorch"  # "ncsn*": which original implementation to follow: pytorch, jax
    m.nonlinearity = "swish"  # elu, relu, lrelu, swish
    m.resamp_with_conv = True  # a convolution in each resampling layer of "ddpm" blocks
    m.conditional = True  # the noise level is an input of the network
    m.num_classes = 0  # number of classes, of a conditional network or a classifier; 0: no classes
    m.label_dropout = 0.1  # probability of hiding an example's class in training
    m.fir = True  # resample with the filter fir_kernel; False: with mean and nearest neighbour
    m.fir_kernel = (1, 3, 3, 1)  # taps of the separable filter, normalised to sum 1
    m.skip_rescale = True  # multiply residual sums by 1/sqrt(2)
    m.resblock_type = "biggan"  # biggan, ddpm
    m.progressive = "none"  # output pyramid: none, output_skip, residual
    m.progressive_input = "none"  # input pyramid: none, input_skip, residual
    m.progressive_combine = "sum"  # how input_skip is combined with features: sum, cat
    m.embedding_type = "fourier"  # embedding of the noise level: fourier, positional
    m.fourier_scale = 16.0  # standard deviation of the Fourier frequencies
    m.init_scale = 0.0  # scale of the last convolutions at initialisation; 0 stands for 1e-10
    m.color_mean = ()  # "wideresnet": mean of each color in [0, 1], to normalise images; (): do not
    m.color_std = ()  # "wideresnet": standard deviation of each color, used with color_mean
    m.scale_by_sigma = False  # divide the network's output by sigma
    m.dtype = "float32"  # activations: float32, bfloat16; parameters and norms stay float32
    m.remat = False  # recompute each block in the backward pass, which saves memory but takes time

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
