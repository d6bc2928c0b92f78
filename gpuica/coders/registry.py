"""The registry of coders: names that users pass, and the parameters that apply to each."""

from dataclasses import fields

from .protocol import Coder

CODERS: dict[str, type[Coder]] = {}  # name -> class


def register(kind):
    """Class decorator: make a class of coders available under its names."""
    CODERS.update(dict.fromkeys(kind.names, kind))
    return kind


def accepts(name, parameter):
    """Whether users choose a parameter of the coder of a name: "alpha", "positive", "max_iter", "n_nonzero"."""
    kind = CODERS[name]
    return parameter in {field.name for field in fields(kind)} and parameter not in kind.names[name]  # type: ignore[arg-type]


def supports_positive(name):
    """Whether the coder of a name has codes >= 0, by choice or always."""
    return accepts(name, "positive") or CODERS[name].names[name].get("positive", False)


def as_coder(name, shape, *, alpha=None, n_nonzero=None, positive=False, max_iter=1000):
    """The coder of a name in CODERS, for dictionaries of this shape (K, d).

    alpha: the penalty or threshold, 1 by default; for pursuits the squared residual at which a row is finished, in
    place of a number of atoms.  n_nonzero: atoms a row, by default a tenth of the features, at least 1.
    Raises ValueError for positive codes where a coder has none, and for more atoms than there are.
    """
    kind, (n_atoms, n_features) = CODERS[name], shape
    fixed, chosen = kind.names[name], {}
    if positive and not supports_positive(name):
        remedy = " Use 'nnomp'." if name == "omp" else ""
        raise ValueError(f"Positive constraint not supported for '{name}' coding method.{remedy}")
    if accepts(name, "positive"):
        chosen["positive"] = positive
    if accepts(name, "max_iter"):
        chosen["max_iter"] = max_iter
    if accepts(name, "alpha"):
        chosen["alpha"] = 1.0 if alpha is None else float(alpha)
    if accepts(name, "n_nonzero"):
        if n_nonzero is not None and n_nonzero > n_atoms:
            raise ValueError(f"n_nonzero_coefs={n_nonzero} is more than the {n_atoms} atoms of the dictionary.")
        default = int(min(max(n_features / 10, 1), n_atoms))
        chosen["n_nonzero"] = default if n_nonzero is None else int(n_nonzero)
    if accepts(name, "target") and alpha is not None:
        chosen |= {"target": float(alpha), "n_nonzero": n_atoms}
    return kind(**chosen, **fixed)
