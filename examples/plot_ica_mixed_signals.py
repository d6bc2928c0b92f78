"""
Blind source separation: gpuica and scikit-learn
================================================

Three signals are mixed, and FastICA estimates them from the mixtures.  ``gpuica.FastICA`` has scikit-learn's parameters
and attributes; from the same starting point both compute the same components.  ``gpuica.Picard`` finds the same sources
and stops once no gradient is significant.

Needs matplotlib: ``pip install 'gpuica[bench]'``.
"""

# %%
# The signals
# -----------
# A sine, a square and a sawtooth wave, with a little noise, mixed by a known matrix.
import matplotlib.pyplot as plt
import numpy as np
import sklearn.decomposition
from scipy import signal

import gpuica
from gpuica.metrics import amari_distance, matched_correlation

time = np.linspace(0, 8, 2000)
sources = np.column_stack([np.sin(2 * time), np.sign(np.sin(3 * time)), signal.sawtooth(2 * np.pi * time)])
sources += 0.2 * np.random.default_rng(0).normal(size=sources.shape)
sources /= sources.std(axis=0)
A = np.array([[1.0, 1.0, 1.0], [0.5, 2.0, 1.0], [1.5, 1.0, 2.0]])  # the mixing matrix
X = sources @ A.T  # rows are samples, columns are sensors

# %%
# Fit
# ---
# The Amari distance compares the estimated unmixing with the true mixing matrix: 0 is perfect.  It is invariant to the
# order, sign and scale of the components, which ICA cannot determine.
estimators = {
    "scikit-learn FastICA": sklearn.decomposition.FastICA(3, random_state=0, whiten="unit-variance"),
    "gpuica FastICA": gpuica.FastICA(3, random_state=0),
    "gpuica Picard": gpuica.Picard(3, random_state=0),
}
estimates = {}
for name, ica in estimators.items():
    estimates[name] = ica.fit_transform(X)
    correlation = matched_correlation(sources, estimates[name])[0]
    print(f"{name:21} Amari distance {amari_distance(ica.components_, A):.4f}, correlations {correlation.round(3)}")

first, second = (estimators[name].components_ for name in ("scikit-learn FastICA", "gpuica FastICA"))
print(f"largest difference of the components of scikit-learn and gpuica: {abs(first - second).max():.1e}")

# %%
# Compare
# -------
# Sources, mixtures, and the estimates matched to the sources, with their signs.
panels = {"sources": sources, "mixtures": X}
for name, S in estimates.items():
    order = matched_correlation(sources, S)[1]
    matched = S[:, order]
    panels[name] = matched * np.sign((matched * sources).sum(axis=0))

figure, axes = plt.subplots(len(panels), 1, figsize=(9, 9), sharex=True, layout="constrained")
for axis, (name, signals) in zip(axes, panels.items(), strict=True):
    for column, color in zip(signals.T, ("#d1495b", "#4a6fa5", "#66a182"), strict=True):
        axis.plot(time, column, color=color, lw=0.9)
    axis.set_title(name, fontsize=10, loc="left")
axes[-1].set_xlabel("time, s")
plt.show()
