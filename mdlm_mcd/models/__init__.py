"""Networks with the public parameter names, and what belongs to them."""
