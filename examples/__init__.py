"""Whole stories told with Trilane, each a folder that runs."""
