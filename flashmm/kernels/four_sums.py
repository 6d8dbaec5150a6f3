"""Four sums that lie side by side, added to by one vector instruction.

LLVM does not put the four additions together by itself.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FOUR = ir.VectorType(ir.DoubleType(), 4)
_LAST = ir.Constant(ir.IntType(32), 3)
_ALIGNED = 8  # bytes: of a single number


def _add_four(_: Any, sums: Any, j: Any, added: Any, i: Any, factor: Any) -> Any:
    """Add added[i, :4] · (1, 1, 1, factor) to sums[j, :4], in compiled code.

    Parameters
    ----------
    sums, added : numpy.ndarray
        (rows, 4 or more) float64, whose rows lie one after another.
    j, i : int
        Rows, which are not checked.
    factor : float
        Of the last sum.
    """
    return types.void(sums, j, added, i, factor), _code_of_add_four


add_four: Any = intrinsic(_add_four)


def _code_of_add_four(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    sums, j, added, i, factor = arguments
    place = _row(context, builder, signature.args[0], sums, j)
    what = builder.load(_row(context, builder, signature.args[2], added, i), align=_ALIGNED)
    ones = ir.Constant(_FOUR, [1.0] * 4)
    terms = builder.fmul(what, builder.insert_element(ones, factor, _LAST))
    total = builder.fadd(builder.load(place, align=_ALIGNED), terms)
    builder.store(total, place, align=_ALIGNED)
    return context.get_dummy_value()


def _row(context: Any, builder: Any, kind: Any, array: Any, number: Any) -> Any:
    """Pointer to the first four numbers of a row."""
    parts = context.make_array(kind)(context, builder, array)
    stride = cgutils.unpack_tuple(builder, parts.strides, 2)[0]
    begin = builder.ptrtoint(parts.data, stride.type)
    place = builder.add(begin, builder.mul(number, stride))
    return builder.inttoptr(place, _FOUR.as_pointer())
