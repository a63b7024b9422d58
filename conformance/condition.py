"""Conditions over cases: comparisons of a case's attributes, in the syntax of Python, and nothing else of it."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from depthwise.conformance.case import Case

_ATTRIBUTES = {
    *("input", "filter", "strides", "dilations", "padding", "padding_kind", "format", "output_shape"),
    *("dtype", "mode", "unknown", "data", "order", "bad"),
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def condition(text: str) -> Callable[[Case], bool]:
    """Reads a condition.

    Args:
      text: comparisons of `input`, `filter`, `strides`, `dilations`, `padding`, `padding_kind`, `format`, `dtype`,
        `mode`, `unknown`, `data`, `order`, `bad`, `output_shape`, of their elements, and of literals; joined by and,
        or, not.

    Returns:
      What tells whether a case meets it.

    Raises:
      ValueError: the text holds anything else.

    Example:
      >>> from depthwise.conformance.case import parse
      >>> condition("strides[0] != strides[1] and mode in ('eager', 'graph')")(parse("in=1x1x1x1 filter=1x1x1"))
      False
    """
    try:
        body = ast.parse(text, mode="eval").body
        _check_is_comparison(body)
        _evaluate(body, Case((1, 1, 1, 1), (1, 1, 1)))
    except (SyntaxError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"condition must compare attributes of a case, got {text!r} ({error})") from None
    return lambda case: bool(_evaluate(body, case))


def _check_is_comparison(node: ast.expr) -> None:
    """Refuses what is no comparison, nor made of some: it would be true, or not, whatever the case."""
    match node:
        case ast.BoolOp(_, values):
            for value in values:
                _check_is_comparison(value)
        case ast.UnaryOp(ast.Not(), operand):
            _check_is_comparison(operand)
        case ast.Compare():
            return
        case _:
            raise ValueError(f"condition must compare attributes of a case, got {ast.unparse(node)!r}")


def _evaluate(node: ast.expr, case: Case) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Tuple(elements) | ast.List(elements):
            return tuple(_evaluate(element, case) for element in elements)
        case ast.Name(name) if name in _ATTRIBUTES:
            return getattr(case, name)
        case ast.Subscript(of, index):
            return _evaluate(of, case)[_evaluate(index, case)]
        case ast.UnaryOp(ast.Not(), operand):
            return not _evaluate(operand, case)
        case ast.UnaryOp(ast.USub(), operand):
            return -_evaluate(operand, case)
        # Lists, so that every part is read, also after one that decides.
        case ast.BoolOp(ast.And(), values):
            return all([_evaluate(value, case) for value in values])
        case ast.BoolOp(ast.Or(), values):
            return any([_evaluate(value, case) for value in values])
        case ast.Compare(left, operators, right):
            sides = [_evaluate(side, case) for side in (left, *right)]
            return all(_COMPARE[type(o)](a, b) for o, a, b in zip(operators, sides, sides[1:], strict=False))
    raise ValueError(f"condition must compare attributes of a case, got {ast.unparse(node)!r}")
