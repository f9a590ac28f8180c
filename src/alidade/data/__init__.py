"""Images, labels and the order in which they come."""
