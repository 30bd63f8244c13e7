"""The compiled reading: what the vendor's compiler visibly does to a kernel, a pass a file."""
