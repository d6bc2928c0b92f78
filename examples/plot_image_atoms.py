"""
Dictionary learning on image patches
====================================

A dictionary is learned from patches of one half of a photograph.  Noise is added to the other half, which is then
denoised: its patches are coded with few atoms, and the reconstructed patches are averaged.  The estimator has the
parameters of scikit-learn's.

Needs pillow and matplotlib: ``pip install 'gpuica[bench]'``.
"""

# %%
# The data
# --------
# Every second pixel of one of scikit-learn's sample photographs, in grey, with values from 0 to 1.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image
from sklearn.feature_extraction.image import extract_patches_2d, reconstruct_from_patches_2d

from gpuica import MiniBatchDictionaryLearning

SIDE, NOISE = 8, 0.1

image = load_sample_image("china.jpg").mean(axis=2)[::2, ::2] / 255
half = image.shape[1] // 2
clean, truth = image[:, :half], image[:, half:]
rng = np.random.default_rng(0)
noisy = truth + NOISE * rng.normal(size=truth.shape)


def centered_patches(image):
    """All patches (n, SIDE²) of an image, each minus its mean; and the means (n, 1)."""
    patches = extract_patches_2d(image, (SIDE, SIDE)).reshape(-1, SIDE * SIDE)
    means = patches.mean(axis=1, keepdims=True)
    return patches - means, means


# %%
# Learn the dictionary
# --------------------
# Four passes over 10,000 patches, in mini-batches of 256.  ``fit_algorithm="cd"`` codes by coordinate descent.
X = centered_patches(clean)[0]
X = rng.permutation(X)[:10_000]
X /= SIDE * X.std()

model = MiniBatchDictionaryLearning(
    144, alpha=0.15, max_iter=4, fit_algorithm="cd", random_state=0, tol=0, max_no_improvement=None
)
model.fit(X)

figure, axes = plt.subplots(12, 12, figsize=(6, 6), gridspec_kw={"wspace": 0.1, "hspace": 0.1})
order = np.argsort(-np.linalg.norm(model.components_, axis=1))
for axis, atom in zip(axes.flat, model.components_[order], strict=True):
    limit = np.abs(atom).max()
    axis.imshow(atom.reshape(SIDE, SIDE), cmap="gray", vmin=-limit, vmax=limit)
    axis.axis("off")
figure.suptitle(f"{len(model.components_)} atoms of {SIDE} x {SIDE} patches")

# %%
# Denoise the other half
# ----------------------
# Codes of all noisy patches by orthogonal matching pursuit and by the lasso.  With ``transform_alpha`` OMP adds atoms
# until the squared residual of a patch falls to the level of the noise.
CODERS = {
    "OMP, 1 atom": {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 1},
    "OMP, 4 atoms": {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 4},
    "lasso": {"transform_algorithm": "lasso_cd", "transform_alpha": 0.15},
    "OMP to the noise": {
        "transform_algorithm": "omp",
        "transform_n_nonzero_coefs": None,
        "transform_alpha": 1.1 * SIDE**2 * NOISE**2,
    },
}


def psnr(image):
    """Peak signal-to-noise ratio in dB."""
    return -10 * np.log10(((image - truth) ** 2).mean())


patches, means = centered_patches(noisy)
images = {"photograph": truth, f"noisy, {psnr(noisy):.1f} dB": noisy}
for name, settings in CODERS.items():
    model.set_params(**settings)
    rows = (model.transform(patches) @ model.components_ + means).reshape(-1, SIDE, SIDE)
    denoised = reconstruct_from_patches_2d(rows, noisy.shape)
    images[f"{name}, {psnr(denoised):.1f} dB"] = denoised
    print(f"{name:16} {psnr(denoised):.2f} dB")

figure, axes = plt.subplots(2, 3, figsize=(9, 8.2), layout="constrained")
for axis, (title, shown) in zip(axes.flat, images.items(), strict=True):
    axis.imshow(shown, cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=10)
    axis.axis("off")
plt.show()
