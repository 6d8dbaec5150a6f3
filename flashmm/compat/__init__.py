"""Shells that let scripts written for the original programs run on flashmm's engines."""
