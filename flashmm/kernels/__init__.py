"""Arrays in, arrays out: the algebra of the mixed models."""
