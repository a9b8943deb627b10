r"""The small denoising CNN of denoising/cifar10_langevin on 5,000 real MNIST digits.

    python main.py --config configs/denoising/mnist_langevin.py --mode train
    python main.py --config configs/denoising/mnist_langevin.py --mode eval

1,000 steps took 14 minutes on two cores that others kept busy, of which about 6 of CPU time. PSNR
(SSIM) of 256 digits: noisy 20.00 dB (.709), clipped 22.66 (.708), Langevin 28.81 (.877), Tweedie
30.02 (.975). The embedded test digits are training digits too.

A network that knows all noise levels removes noise of any, and draws from the posterior too:

    python main.py --config configs/ve/mnist.py --mode eval --config.eval.tasks=denoise \
        --config.eval.denoisers="('tweedie', 'posterior')" --config.eval.noise_std=0.3

With noise 0.1, 64 digits: Tweedie 30.56 dB; posterior draws, 20 steps of dpmpp_2m_sde, 27.76 dB.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variant "smoke" is tiny."""
    c = base.get_config()
    parts.ve(c)
    parts.mnist(c)
    parts.offline_denoiser(c)
    return parts.finish(c, variant)
