"""Exceptions that several layers raise or handle."""


class NotFiniteError(ValueError):
    """X contains NaN or infinity, or values whose squares overflow float64."""
