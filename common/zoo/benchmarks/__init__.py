"""How fast the networks are: alone, split over processes, and pruned."""
