"""Coming from Feast: what a Feast repository declares, written as Trilane definitions."""
