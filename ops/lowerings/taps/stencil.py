"""Output and input gradient as stencils: each result a sum of taps times shifted samples of an image.

Padding a whole image costs a pass over it: as much as a 3x3 stencil takes altogether. So the results are parted into
regions, by which taps meet the image and which meet padding (`geometry.output_runs`, `input_runs`); within a region
every tap is one plain slice of the image, which XLA fuses with the others into one vectorised loop, and the regions are
concatenated. A 3x3 filter with padding makes nine of them. A larger one makes more, of more taps each, and its stencil
takes several times what the padding does: there the image is padded, and one region remains (`unpadded` has those that
are too large to copy). So it is in NCHW, where the columns lie side by side in memory: concatenated there, nothing is
vectorised (8.2 ms for (8,128,56,56), 3x3; padded 3.7; `end_to_end` 1.5). But where columns are a stride apart nothing
is vectorised anyway, and regions are quicker again (stride 2: 0.9 ms, padded 1.5).
"""

from __future__ import annotations

import tensorflow as tf
from depthwise.ops.geometry import Run, input_runs, merged, output_runs
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.lowerings.taps.layout import Layout, concat, shaped
from depthwise.ops.lowerings.taps.once import once
from depthwise.ops.lowerings.total import total
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops

MOST_REGIONS = 9
"""Most regions that are written out. A 7x7 filter has 49: in regions it compiles for 7 s, padded for less than 1 s."""


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution."""
    layout = Layout(spec, tf.shape(w))
    runs, sizes = (output_runs(spec.rows), output_runs(spec.cols)), (spec.rows.size, spec.cols.size)
    return shaped(_assemble(layout, layout.repeat(x), w, *runs, sizes), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The input gradient of a convolution without strides."""
    layout = Layout(spec, tf.shape(w))
    runs, sizes = (input_runs(spec.rows), input_runs(spec.cols)), (spec.rows.output, spec.cols.output)
    return shaped(layout.sum_repeated(_assemble(layout, dy, w, *runs, sizes)), spec.input_shape)


def _assemble(
    layout: Layout,
    image: tf.Tensor,
    w: tf.Tensor,
    rows: tuple[Run, ...],
    cols: tuple[Run, ...],
    sizes: tuple[int, int],
) -> tf.Tensor:
    """The stencil's value everywhere, from regions in which all results are formed alike.

    Args:
      sizes: height and width of the image.
    """
    count = len(rows) * len(cols)
    most = 1 if layout.spec.data_format == "NCHW" and cols[0].step == 1 else MOST_REGIONS
    if count > most:
        rows, cols = (merged(rows, sizes[0]),), (merged(cols, sizes[1]),)
        weights = layout.weights_with_spare(w)
    else:
        weights = layout.weights(w)
    regions = [[_region(layout, image, weights, r, c) for c in cols] for r in rows]
    if len(rows) == len(cols) == 1:
        return once(regions[0][0])
    # XLA computes a concatenation once by itself; a division after it would be another pass.
    return concat([concat(band, layout.col) for band in regions], layout.row)


def _region(layout: Layout, image: tf.Tensor, weights: list[list[tf.Tensor]], rows: Run, cols: Run) -> tf.Tensor:
    """The results of one run of rows and one run of columns."""
    height, width = rows.stop - rows.start, cols.stop - cols.start
    if not rows.terms or not cols.terms:
        return layout.zeros(image, height, width)
    image = layout.piece(image, rows, cols)
    # Tap row by tap row: sums that a processor can form side by side.
    return total(
        [
            total(
                [
                    raw.Mul(
                        x=layout.cut(image, (top, height, rows.step), (left, width, cols.step)),
                        y=weights[i][j],
                    )
                    for j, left in cols.terms
                ]
            )
            for i, top in rows.terms
        ]
    )
