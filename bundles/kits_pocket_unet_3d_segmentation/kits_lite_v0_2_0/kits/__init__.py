"""KiTS cases, slices, inference, metrics and pictures; knows no network."""
