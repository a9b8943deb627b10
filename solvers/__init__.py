"""Few-step and adaptive solvers of the reverse process, for every SDE.

These samplers have the interface of the samplers in `sampling.py`. The few-step solvers use only
mu, sigma and log-SNR of an SDE. A row of SOLVERS is a builder
`(sde, ..., denoise, eps, t_start, projection, observer) -> Sampler`, whose parameters say which
config keys set them (`utils.options`).

    ddim          Song et al. 2021a (arXiv 2010.02502); exponential Euler
    heun          Karras et al. 2022 (arXiv 2206.00364), with churn
    dpmpp_2m      DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), algorithm 2
    dpmpp_3m      the same with three evaluations, integrated exactly
    dpmpp_2m_sde  SDE-DPM-Solver++(2M) of the same paper
    unipc         Zhao et al. 2023 (arXiv 2302.04867), integrated exactly, so that B(h) drops out
    adaptive_sde  Jolicoeur-Martineau et al. 2021 (arXiv 2105.14080)
"""

import functools

from scorax.solvers.adaptive import get_adaptive_sampler
from scorax.solvers.few_step import get_multistep_sampler
from scorax.solvers.heun import get_heun_sampler
from scorax.solvers.probability_flow import ODE_SOLVERS
from scorax.solvers.time_grids import TIME_GRIDS

__all__ = ["ODE_SOLVERS", "SOLVERS", "TIME_GRIDS"]

SOLVERS = {
    "ddim": functools.partial(get_multistep_sampler, order=1),
    "heun": functools.partial(get_heun_sampler, order=2),
    "dpmpp_2m": functools.partial(get_multistep_sampler, order=2, midpoint=True),
    "dpmpp_3m": functools.partial(get_multistep_sampler, order=3),
    "dpmpp_2m_sde": functools.partial(get_multistep_sampler, order=2, midpoint=True, eta=1.0),
    "unipc": functools.partial(get_multistep_sampler, correct=True),
    "adaptive_sde": get_adaptive_sampler,
}
