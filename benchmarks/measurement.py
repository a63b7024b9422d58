"""One measured figure with all that it belongs to: what workers send, files hold and tables show."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONTRACTIONS = ("output", "input_grad", "filter_grad")
USUAL_QUANTITIES = (*CONTRACTIONS, "step")
"""step: the output and both gradients, as training computes them."""
PER_EXAMPLE = "per_example_grad"
"""The filter gradient of every image of the batch alone, by `tf.vectorized_map`, as differential privacy takes it."""
QUANTITIES = (*USUAL_QUANTITIES, PER_EXAMPLE)
USUAL_MODES = ("eager", "graph", "xla")
ANY_BATCH = "fit"
"""In a graph for any batch size, as Keras's `fit` traces it where the batch does not divide the samples."""
MODES = (*USUAL_MODES, ANY_BATCH)
FLOOR = "floor"
"""What is left where nothing is convolved: of an op x * 2, which moves as many bytes as its output; of a whole model
the rest of it."""


@dataclass(frozen=True)
class Measurement:
    """How one implementation did on one case.

    Attributes:
      case: in one line, or the name of a model.
      implementation, mode, quantity: what ran. For a model, the quantity is "train" or "predict".
      onednn: whether TensorFlow used oneDNN.
      threads: processors that the process could use.
      wall_ms, cpu_ms, noise, samples: from `alternate.Time`; None where it did not run.
      first_s: seconds that the first call took: tracing, compiling, running once.
      peak_mb: by how much a call raised the resident memory (2**20 bytes), where the system says.
      error: why there is no figure.
    """

    case: str
    implementation: str
    mode: str
    quantity: str
    onednn: bool
    threads: int
    wall_ms: float | None = None
    cpu_ms: float | None = None
    noise: float | None = None
    samples: int = 0
    first_s: float | None = None
    peak_mb: float | None = None
    error: str | None = None


def setting() -> dict[str, Any]:
    """`onednn` and `threads`, as they are in this process: the command line sets the former for all that it starts."""
    return {
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0",
        "threads": len(os.sched_getaffinity(0)),
    }


def save(path: Path, header: dict[str, Any], measurements: Iterable[Measurement]) -> None:
    """Writes a JSON file: a header that says where and how, and the measurements."""
    content = {**header, "measurements": [asdict(m) for m in measurements]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(paths: Iterable[Path]) -> list[Measurement]:
    """The measurements of one or more files; where two have the same, the later file's."""
    found: dict[tuple[object, ...], Measurement] = {}
    for path in paths:
        for fields in json.loads(path.read_text(encoding="utf-8"))["measurements"]:
            m = Measurement(**fields)
            found[m.case, m.implementation, m.mode, m.quantity, m.onednn, m.threads] = m
    return list(found.values())
