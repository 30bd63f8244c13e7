"""What NKI's functions mean, as operations over our instructions, one module a group.

Both generations call them. `dst` is where the result goes, None for a fresh tile, which is what the
older generation returns; every function returns the handle of its result.
"""
