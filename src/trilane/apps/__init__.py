"""Processes you start; they alone read configuration, and compose the layers below."""
