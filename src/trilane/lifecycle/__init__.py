"""What ran, what is due: the registry, runs, and the graph between all things."""
