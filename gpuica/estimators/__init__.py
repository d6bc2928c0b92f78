"""scikit-learn on the outside."""
