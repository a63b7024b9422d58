"""convert: a model with Keras's depthwise layers replaced by this package's, and the way back."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import keras
from depthwise.layers.clone import clone
from depthwise.layers.conv2d import Conv2D
from depthwise.layers.depthwise_conv2d import DepthwiseConv2D
from depthwise.layers.lowering import Lowered
from depthwise.layers.separable_conv2d import SeparableConv2D
from depthwise.ops import check_lowering

_OURS: dict[type, type] = {
    keras.layers.DepthwiseConv2D: DepthwiseConv2D,
    keras.layers.SeparableConv2D: SeparableConv2D,
    keras.layers.Conv2D: Conv2D,
}
_REPLACEMENTS = {"depthwise": _OURS, "keras": {ours: theirs for theirs, ours in _OURS.items()}}


def convert(
    model: keras.Model, to: Literal["depthwise", "keras"] = "depthwise", *, lowering: str | None = None
) -> keras.Model:
    """The same model with its depthwise convolutions computed by `depthwise.ops`; `to="keras"` is the way back.

    Every layer that is exactly a `keras.layers.DepthwiseConv2D`, a `keras.layers.SeparableConv2D` or a
    `keras.layers.Conv2D` with groups is replaced by this package's layer of that name, however deep it is nested: in
    models, wrappers and layers of your own. Subclasses of the three are left alone. Layers keep their weights, their
    other state (what `Normalization` and the lookup layers have adapted to), their own and their weights' `trainable`
    flags, and their names unless code of yours makes them anew. The model given is not changed.

    Convert before or after you load weights: files of weights fit both models. A whole model that is saved comes back
    with its layers as they are, except those that code of your own makes in a layer's or model's `__init__` or
    `build`: these are Keras's again, so convert once more after loading.

    Args:
      model: a functional or sequential model, or one of a class of your own that Keras can make again from its
        `get_config`; built or not. Classes and functions of your own need not be registered.
      to: "depthwise" for the layers of this package, "keras" for Keras's own.
      lowering: how all layers of this package in the new model compute: "auto", or one of `depthwise.ops.LOWERINGS`;
        "portable" for a model that is saved now and compiled by XLA later. By default those that the model has already
        keep theirs, and new ones have "auto".

    Returns:
      A new model with weights of its own, equal to those of `model`; compiled alike if `model` is compiled: with the
      same losses, and with metrics and an optimizer that are made anew from their configs. The optimizer's slots and
      step count are not carried over. Where your class has a `compile` of its own, its `get_compile_config` and
      `compile_from_config` are asked, and Keras warns if they leave the new model uncompiled.

    Raises:
      TypeError: `lowering` is no string, `model` is no Keras model, or Keras cannot make it again from its config with
        the same layers and weights: a class of your own lacks `get_config`, its `call` takes several tensors and it has
        no `build_from_config`, or a layer of the graph is an attribute of another layer as well. Or a metric or the
        optimizer holds a lambda, or a function within another.
      ValueError: `to` is neither word, there is no such `lowering` or Keras's layers are asked to have one, or a layer
        has no counterpart in Keras: explicit padding, or a lowering asked for by name.

    Example:
      >>> import keras
      >>> from depthwise.layers import convert
      >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.DepthwiseConv2D(3)])
      >>> convert(model).layers[0].__module__
      'depthwise.layers.depthwise_conv2d'
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"convert argument `model` must be a Keras model, but got {model!r}. Wrap a layer in one.")
    if not isinstance(to, str) or to not in _REPLACEMENTS:
        raise ValueError(
            f"convert argument `to` must be 'depthwise' or 'keras', but got {to!r}. 'depthwise' puts in the layers of"
            " this package, 'keras' Keras's own."
        )
    if lowering is not None:
        check_lowering(lowering, "convert")
    replacements = _REPLACEMENTS[to]
    if to == "keras":
        if lowering is not None:
            raise ValueError(
                f"convert argument `lowering` must not be given for to='keras', whose layers have none, but got"
                f" {lowering!r}. Leave it out."
            )
        _check_keras_can(model)
    converted = clone(model)
    for layer in converted._flatten_layers():
        if type(layer) in replacements and not _ungrouped(layer):
            _become(layer, replacements[type(layer)])
        if lowering is not None and isinstance(layer, Lowered):
            layer.lowering = lowering
    return converted


def _become(layer: Any, new: type) -> None:
    """Puts a layer under another class.

    A layer and its counterpart hold the same attributes and differ in methods alone. So the model keeps its layers,
    with all that refers to them (wrappers, attributes of subclassed models), under another class.
    """
    layer.__class__ = new
    # Keras wraps some methods of a layer (build, quantize) when it makes it. The wrappers hold those of the old class.
    for wrapper in vars(layer).values():
        for cell in getattr(wrapper, "__closure__", None) or ():
            method = cell.cell_contents
            if inspect.ismethod(method) and method.__self__ is layer:
                cell.cell_contents = getattr(new, method.__name__).__get__(layer)


def _ungrouped(layer: Any) -> bool:
    return type(layer) is keras.layers.Conv2D and layer.groups == 1


def _check_keras_can(model: Any) -> None:
    for layer in model._flatten_layers():
        if type(layer) not in _REPLACEMENTS["keras"]:
            continue
        if not isinstance(layer.padding, str):
            found, advice = f"padding={layer.padding!r}", "Use ZeroPadding2D before a 'valid' layer."
        elif layer.lowering != "auto":
            found, advice = f"lowering={layer.lowering!r}", "Call convert(model, lowering='auto') first."
        else:
            continue
        raise ValueError(
            "convert argument `model` must hold only layers that Keras has too for to='keras', but layer"
            f" {layer.name!r} has {found}. {advice}"
        )
