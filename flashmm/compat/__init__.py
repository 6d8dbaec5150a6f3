"""Shells that let scripts written for the original programs run on flashmm's engines.

A module for each program, with its function names, arguments and words; the results are our own.
"""
