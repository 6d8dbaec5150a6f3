"""Arrays in, arrays out: the algebra of the mixed models.

A kernel knows no names, tables or files, imports none of the other rooms but options and names, and
works on all genes of a block at once.
"""
