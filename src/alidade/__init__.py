"""Alidade: a sighting arm for the loss of a neural network."""
