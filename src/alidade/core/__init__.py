"""What a run is and what a measurement is. Imports neither torch nor anything else of ours."""
