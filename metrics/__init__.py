"""Measuring samples: metrics that are functions of arrays, and the networks that make features.

feature_sets   METRICS of features: Fréchet and kernel distance, inception score, ...
neighbours     precision, recall, density, coverage, memorization
points         distances between sets of points: maximum mean discrepancy, Wasserstein
image_pairs    PSNR and SSIM
features       FEATURES: the networks, and the statistics of data sets
inception      the Inception-v3 network that FID is defined with
judge          a small classifier, trained on the data set itself where Inception does not fit
"""
