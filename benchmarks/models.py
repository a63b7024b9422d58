"""Whole models of keras.applications: training and prediction with Keras's depthwise layers and with this package's.

`python -m benchmarks --models` runs it for all; each model has a process of its own, in which its four variants
(Keras's layers or ours, plain graph or jitted) take turns; so does the jitted model without its depthwise convolutions,
which no implementation of them can be faster than.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks.alternate import alternate
from benchmarks.goals import MODELS
from benchmarks.measurement import FLOOR, Measurement, setting
from benchmarks.run import ROOT

_APPLICATIONS = {
    "MobileNetV2 96x96": ("MobileNetV2", 96, 8),
    "EfficientNetB0": ("EfficientNetB0", 224, 8),
    "ConvNeXtTiny": ("ConvNeXtTiny", 224, 8),
    "MobileNetV2 32x32": ("MobileNetV2", 32, 32),
}
"""Name in keras.applications, height and width of the images, batch. The last one, in whose last layers the images are
smaller than the filters, is measured where it is asked for."""


def measure_models(console: Console, budget_s: float, names: Sequence[str] = MODELS) -> list[Measurement]:
    """Measures models, each in a process of its own; what fails is said and left out."""
    found: list[Measurement] = []
    for name in names:
        with console.status(name):
            command = [sys.executable, "-m", "benchmarks.models", name, str(budget_s)]
            environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            console.print(f"[yellow]{name} is left out:[/] {escape(last)}")
            continue
        found += [Measurement(**fields) for fields in json.loads(done.stdout.splitlines()[-1])]
    return found


def measure(name: str, budget_s: float) -> list[Measurement]:
    """Training and prediction of one model, in this process.

    Args:
      name: one of `_APPLICATIONS`.
      budget_s: seconds for each figure.

    Returns:
      Measurements with the model's name as their case, implementation "keras", "depthwise" or FLOOR (without the
      convolutions), mode "graph" or "xla", quantity "train" (`train_on_batch`) or "predict" (`predict_on_batch`).
    """
    import keras
    import numpy as np
    from depthwise.layers import convert

    application, size, batch = _APPLICATIONS[name]
    keras.utils.set_random_seed(1)
    stock = getattr(keras.applications, application)(weights=None, input_shape=(size, size, 3))
    random = np.random.default_rng(1)
    x = random.uniform(0, 1, (batch, size, size, 3)).astype("float32")
    y = random.integers(0, 1000, batch)
    build = {"keras": keras.models.clone_model, "depthwise": convert, FLOOR: _without_convolutions}
    models: dict[tuple[str, str], Any] = {}
    for implementation, mode in (*product(("keras", "depthwise"), ("graph", "xla")), (FLOOR, "xla")):
        model = build[implementation](stock)
        model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=mode == "xla")
        models[implementation, mode] = model
    found = []
    for quantity in ("train", "predict"):
        calls: dict[tuple[str, str], Callable[[], object]] = {
            runner: _call(model, quantity, x, y) for runner, model in models.items()
        }
        firsts = {runner: _seconds(call) for runner, call in calls.items()}
        for call in calls.values():
            call()
        for (implementation, mode), timed in alternate(calls, budget_s).items():
            m = Measurement(name, implementation, mode, quantity, **setting())
            found.append(replace(m, first_s=firsts[implementation, mode], **asdict(timed)))
    return found


def _without_convolutions(model: Any) -> Any:
    """The same model, each output of whose depthwise layers is one sample of the input, scaled."""
    import keras

    class Scale(keras.layers.Layer):  # type: ignore[misc]  # Keras carries no types
        def __init__(self, layer: Any) -> None:
            super().__init__(name=layer.name)
            sizes = layer.output.shape[1:3]
            self.samples = [slice(0, s * (size - 1) + 1, s) for s, size in zip(layer.strides, sizes, strict=True)]

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, inputs: Any) -> Any:
            return inputs[:, self.samples[0], self.samples[1]] * self.scale

    def clone(layer: Any) -> Any:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) or getattr(layer, "groups", 1) > 1
        return Scale(layer) if depthwise else layer.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def _call(model: Any, quantity: str, x: Any, y: Any) -> Callable[[], object]:
    if quantity == "train":
        return lambda: model.train_on_batch(x, y)
    return lambda: model.predict_on_batch(x)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description="Measures one model, as JSON.")
    parser.add_argument("model", choices=_APPLICATIONS)
    parser.add_argument("seconds", type=float, help="time for each figure")
    options = parser.parse_args()
    print(json.dumps([asdict(m) for m in measure(options.model, options.seconds)]))
