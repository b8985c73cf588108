"""Measures what the networks are worth: the trainings of the protocol, the audit of the papers, speed and pruning."""
