"""Evaluates the algebraic expressions in which OpenMM writes its custom forces.

A generalised Born model arrives as text. To recognise it whatever its spelling, its expressions
are evaluated at many points and compared with the formulas that the kernels implement.
"""

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping

_FUNCTIONS: dict[str, Callable[..., float]] = {
    "sqrt": math.sqrt, "exp": math.exp,
    # Both branches of a select are evaluated, and the logarithm in the other one may not exist.
    "log": lambda x: math.log(x) if x > 0 else math.nan,
    "tanh": math.tanh, "abs": abs,
    "max": max, "min": min, "sin": math.sin, "cos": math.cos,
    "step": lambda x: 1.0 if x >= 0 else 0.0,
    "select": lambda condition, yes, no: yes if condition else no,
}  # fmt: skip
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_NAME = re.compile(r"(?<![\w.])([A-Za-z_]\w*)")


def evaluate(
    expression: str,
    values: Mapping[str, float],
    functions: Mapping[str, Callable[..., float]] | None = None,
) -> float:
    """Evaluates ``"formula; name = formula; ..."`` at given values of its free variables.

    Args:
        expression: text in OpenMM's syntax; later definitions serve earlier ones.
        values: the free variables.
        functions: functions that the text may call besides the usual ones.

    Raises:
        ValueError: the text uses a function or a variable that is not known here.
    """
    functions = {**_FUNCTIONS, **(functions or {})}
    formula, *definitions = (part for part in expression.split(";") if part.strip())
    known = dict(values)
    for definition in reversed(definitions):
        name, _, text = definition.partition("=")
        known[name.strip()] = _number(_parse(text), known, functions)
    return _number(_parse(formula), known, functions)


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> ast.expr:
    # Every name gets a prefix because OpenMM's names ("or") may be Python keywords.
    source = _NAME.sub(r"v_\1", text.replace("^", "**")).strip()
    try:
        return ast.parse(source, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot read the expression {text.strip()!r}") from error


def _number(
    node: ast.expr, values: Mapping[str, float], functions: Mapping[str, Callable[..., float]]
) -> float:
    def number(part: ast.expr) -> float:
        return _number(part, values, functions)

    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id=name) if name[2:] in values:
            return values[name[2:]]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -number(inner)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](number(left), number(right))
        case ast.Call(func=ast.Name(id=name), args=arguments) if name[2:] in functions:
            return functions[name[2:]](*map(number, arguments))
    raise ValueError(f"unknown name or operation in an expression: {ast.unparse(node)}")
