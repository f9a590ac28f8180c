"""The loss as a mathematical object."""
