"""How stores are filled."""
