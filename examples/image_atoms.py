"""Atoms of natural images, and an image denoised with them: gpuica beside scikit-learn, the same steps.

    python examples/image_atoms.py [--out docs/image_atoms.png]

As in scikit-learn's gallery: one half of a photograph gets noise, a dictionary is learned from patches of the clean
half, patches of the noisy half are coded with few atoms, and the codes are put together again.  Needs pillow and
matplotlib: pip install 'gpuica[bench]'.
"""

import argparse
import time
import warnings

import numpy as np
import sklearn.decomposition
from sklearn.datasets import load_sample_image
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.image import extract_patches_2d, reconstruct_from_patches_2d

import gpuica

SIDE, ATOMS, NOISE = 8, 256, 0.1
CODERS = {
    "OMP, 1 atom": {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 1},
    "OMP, 4 atoms": {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 4},
    "lasso": {"transform_algorithm": "lasso_cd", "transform_alpha": 0.15},
}
# as many atoms as each patch needs to come within its noise; scikit-learn does not look at transform_alpha here
TO_THE_NOISE = {"transform_algorithm": "omp", "transform_alpha": 1.1 * SIDE**2 * NOISE**2}


def photograph():
    """The grey photograph, (427, 640), from 0 to 1."""
    return load_sample_image("china.jpg").mean(axis=2) / 255


def patches(image):
    """All patches (n, SIDE²), each less its mean; and the means."""
    flat = extract_patches_2d(image, (SIDE, SIDE)).reshape(-1, SIDE * SIDE)
    means = flat.mean(axis=1, keepdims=True)
    return flat - means, means


def psnr(image, truth):
    """Peak signal-to-noise ratio in dB."""
    return -10 * np.log10(((image - truth) ** 2).mean())


def learn(library, X):
    """A fitted MiniBatchDictionaryLearning of the library, and its seconds."""
    model = library.MiniBatchDictionaryLearning(
        ATOMS, alpha=0.15, max_iter=4, fit_algorithm="cd", random_state=0, tol=0, max_no_improvement=None
    )
    began = time.perf_counter()
    model.fit(X)
    return model, time.perf_counter() - began


def denoise(model, noisy, coders):
    """{name of a coder: (image, seconds)}."""
    X, means = patches(noisy)
    images = {}
    for name, settings in coders.items():
        model.set_params(**settings)
        began = time.perf_counter()
        code = model.transform(X)
        seconds = time.perf_counter() - began
        rows = (code @ model.components_ + means).reshape(-1, SIDE, SIDE)
        images[name] = reconstruct_from_patches_2d(rows, noisy.shape), seconds
    return images


def picture(model, truth, noisy, images, path):
    """Atoms, and the image as it was, with noise, and denoised."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by_use = np.argsort(-np.linalg.norm(model.components_, axis=1))
    tiles = np.ones((16 * (SIDE + 1), 16 * (SIDE + 1)))
    for place, atom in enumerate(model.components_[by_use]):
        row, column = (part * (SIDE + 1) for part in divmod(place, 16))
        tile = atom.reshape(SIDE, SIDE)
        tiles[row : row + SIDE, column : column + SIDE] = 0.5 + tile / (2 * np.abs(tile).max())
    best = max(images, key=lambda name: psnr(images[name][0], truth))
    shown = {
        f"{ATOMS} atoms of {SIDE} x {SIDE} patches": tiles,
        "photograph, other half": truth,
        f"with noise, {psnr(noisy, truth):.1f} dB": noisy,
        f"{best}, {psnr(images[best][0], truth):.1f} dB": images[best][0],
    }
    figure, axes = plt.subplots(1, 4, figsize=(14, 4.4), layout="constrained")
    for axis, (title, image) in zip(axes, shown.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=11)
        axis.axis("off")
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="image_atoms.png")
    parser.add_argument("--rows", type=int, default=20_000, help="patches to learn from")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    image, rng = photograph(), np.random.default_rng(0)
    half = image.shape[1] // 2
    truth = image[:, half:]
    noisy = truth + NOISE * rng.normal(size=truth.shape)
    X = patches(image[:, :half])[0]
    X = X[np.sort(rng.choice(len(X), args.rows, replace=False))]
    X /= SIDE * X.std()
    for coder in CODERS.values():  # compiled
        gpuica.MiniBatchDictionaryLearning(4, max_iter=1, fit_algorithm="cd", **coder).fit_transform(X[:300])

    found = {}
    print(f"{args.rows} patches, {ATOMS} atoms; noisy half {psnr(noisy, truth):.2f} dB\n")
    for library in (gpuica, sklearn.decomposition):
        name = library.__name__.partition(".")[0]
        model, seconds = learn(library, X)
        print(f"{name:8} {'learning':16} {seconds:7.2f} s")
        coders = {**CODERS, "OMP to the noise": TO_THE_NOISE} if library is gpuica else CODERS
        images = denoise(model, noisy, coders)
        for coder, (denoised, seconds) in images.items():
            print(f"{name:8} {coder:16} {seconds:7.2f} s  {psnr(denoised, truth):6.2f} dB")
        found[name] = model, images
    picture(found["gpuica"][0], truth, noisy, found["gpuica"][1], args.out)
    print(f"\nPicture: {args.out}")


if __name__ == "__main__":
    main()
