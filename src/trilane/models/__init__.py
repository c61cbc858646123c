"""What was learnt: signatures, immutable artifacts, and the runtimes that execute them."""
