"""Which answer counts."""
