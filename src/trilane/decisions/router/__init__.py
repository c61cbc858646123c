"""Which bundle answers an endpoint."""
