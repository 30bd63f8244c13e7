"""Names of operators and activation functions: NKI's, NumPy's, ours."""


def binary(op: object, function: str, argument: str = "op") -> str:
    """Our name of an operator of two operands, such as `nl.add`, `np.add` or `"add"`."""
    raise NotImplementedError


def unary(op: object, function: str, argument: str = "op") -> str:
    """Our name of an activation function."""
    raise NotImplementedError


def reduction(op: object, function: str, argument: str = "op") -> str:
    """Our name of an operator that reduces."""
    raise NotImplementedError
