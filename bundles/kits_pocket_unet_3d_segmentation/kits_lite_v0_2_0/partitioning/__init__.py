"""A network cut into sub-models: where to cut, the sub-models, and the processes that run them."""
