"""Files and memory.

Atomic writes, chunks of HDF5, disk and memory at hand, and which code made a result.
"""
