"""Where values rest."""
