"""Checks the chooser's table against this machine: where would another lowering have been faster?"""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf
from depthwise.ops import LOWERINGS, explain
from rich.console import Console
from rich.table import Table

from benchmarks.case import Case, parse
from benchmarks.measurement import ANY_BATCH, CONTRACTIONS, Measurement
from benchmarks.report import within_noise
from benchmarks.run import Request, run, summary


def check(console: Console, asked: Request) -> list[Measurement]:
    """Measures every lowering on the cases and in the modes that are asked for, and prints each place where the table
    chose a slower one.

    Returns:
      All that was measured.
    """
    lowerings = tuple(f"depthwise:{name}" for name in LOWERINGS if name != "portable")  # a choice, no way to compute
    request = replace(asked, quantities=CONTRACTIONS, implementations=lowerings, frameworks=("tensorflow",), pythons=())
    found: list[Measurement] = []
    with console.status("measuring every lowering") as status:
        for reply in run(request):
            found += reply.measurements
            status.update(f"{len(found)} figures")
            if reply.failure:
                console.print(reply.failure)
    table = Table("case", "quantity", "mode", "chosen", "ms", "faster", "ms", title="The table would better choose")
    right = close = 0
    for (case, quantity), row in summary(found).items():
        for mode in request.modes:
            chosen = f"depthwise:{chosen_lowering(parse(case), mode, quantity)}"
            rivals = [m for (_, m_mode), m in row.items() if m_mode == mode and m.wall_ms is not None]
            mine = next((m for m in rivals if m.implementation == chosen), None)
            if mine is None:
                continue
            best = min(rivals, key=lambda m: m.wall_ms or 0.0)
            if best is mine:
                right += 1
            elif within_noise(best, mine):
                close += 1
            else:
                names = (chosen, f"{mine.wall_ms:.3g}", best.implementation, f"{best.wall_ms:.3g}")
                table.add_row(case, quantity, mode, *names)
    console.print(table if table.row_count else "No lowering was faster than the one that the table chooses.")
    console.print(f"{right} choices were the fastest, {close} within the noise of it, {table.row_count} slower.")
    return found


def chosen_lowering(case: Case, mode: str, quantity: str) -> str:
    """The lowering that `auto` takes for one quantity of a case, in a mode."""
    chosen: list[str] = []

    def ask(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        explanation = explain(x, w, **case.arguments())
        chosen.append(getattr(explanation, quantity).lowering)
        return x

    if mode == "eager":
        ask(tf.zeros(case.input_shape, case.dtype), tf.zeros(case.filter_shape, case.dtype))
    else:
        batch = None if mode == ANY_BATCH else case.batch
        images = tf.TensorSpec([batch, *case.input_shape[1:]], case.dtype)
        specs = (images, tf.TensorSpec(case.filter_shape, case.dtype))
        tf.function(ask, jit_compile=mode == "xla", autograph=False).get_concrete_function(*specs)
    return chosen[0]
