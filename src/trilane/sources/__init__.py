"""Where facts enter."""
