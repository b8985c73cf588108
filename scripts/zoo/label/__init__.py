"""The bundles in a real MONAI Label server."""
