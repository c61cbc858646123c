"""The wire formats in which a server speaks."""
