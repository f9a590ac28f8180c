"""Plans of many runs and where they are executed."""
