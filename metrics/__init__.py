"""How good samples are: functions of arrays, and the networks whose features are compared.

feature_sets   METRICS of features: Fréchet and kernel distance, inception score, ...
neighbours     precision, recall, density, coverage, memorization
points         distances of sets of points: maximum mean discrepancy
image_pairs    PSNR and SSIM
features       FEATURES: the networks, and statistics of data sets
inception      the Inception-v3 of FID
judge          a small classifier, trained on the spot where Inception does not fit
"""
