"""clone: a model made again, with state of its own: weights, vocabularies, trainable flags, how it is compiled."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any

import keras

# Private: Keras offers no public name for it. tests/layers/test_convert.py notices if a release moves it.
from keras.src.models.functional import Functional


def clone(model: keras.Model) -> keras.Model:
    """The model again; see `convert` for what is kept.

    `keras.models.clone_model` alone would leave state behind, make other classes of some models, and find neither
    unregistered classes nor functions. Keras's saving keeps more, but no trainable flags, and no function's globals.
    """
    layers = _layers(model)
    with _policy(model.dtype_policy), keras.saving.custom_object_scope(_own_objects(layers)):
        try:
            with _uncompiled(layers):
                copy = _maker()(model)
        except Exception as error:
            cause = (str(error).splitlines() or [""])[0]
            raise TypeError(_refusal(model, f"it raises {type(error).__name__}: {cause}")) from error
        copies = _layers(copy)
        for old, new in zip_longest(layers, copies):
            if _kind(old) != _kind(new):
                raise TypeError(_refusal(model, f"{_described(old)} comes back as {_described(new)}"))
        for old, new in zip(layers, copies, strict=True):
            _hand_over_state(old, new)
        for old, new in zip(model.weights, copy.weights, strict=True):
            new.assign(old)  # once more: a layer with LoRA has handed over the product of its weights
            if new.trainable != old.trainable:  # one weight of a layer, frozen by itself
                new.trainable = old.trainable
        for old, new in zip(layers, copies, strict=True):
            if isinstance(old, keras.Model) and old.compiled:
                _compile(old, new)
    return copy


def _layers(model: keras.Model) -> list[Any]:
    """Every layer, however deep, but InputLayers: where two models share one, their copies have one each."""
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.layers.InputLayer)]


def _refusal(model: keras.Model, found: str) -> str:
    return (
        f"convert argument `model` must be one that Keras can make again from its config, but got {model!r}: {found}."
        " Give each class of your own a get_config that holds every argument of its __init__, from_config where that"
        " holds layers, and build_from_config where call takes several tensors; share no layer between the model's"
        " graph and another layer's attribute; or convert the model before it is first called, and load weights then."
    )


def _maker() -> Callable[[Any], Any]:
    """A function that makes layers again, each once, wherever it is used."""
    made: dict[int, Any] = {}

    def again(layer: Any) -> Any:
        if id(layer) not in made:
            made[id(layer)] = make(layer)
        return made[id(layer)]

    def make(layer: Any) -> Any:
        if type(layer) is keras.Sequential:
            return keras.models.clone_model(layer, clone_function=again)
        if _is_graph(layer):
            return keras.models.clone_model(layer, _inputs(layer), again)
        if type(layer) is keras.layers.Lambda:  # the config of which has the function's code without its globals
            given = (layer.function, layer._output_shape, layer.mask, layer.arguments)
            return keras.layers.Lambda(*given, name=layer.name, dtype=layer.dtype_policy)
        config = keras.saving.serialize_keras_object(layer)
        config.pop("compile_config", None)
        if getattr(type(layer), "build_from_config", None) is keras.Layer.build_from_config:
            config.pop("build_config", None)  # the model builds it, and so its weights' paths begin with the model's
        activation = _own_activation(layer)
        if activation:
            config["config"]["activation"] = "linear"
        own = {type(layer).__name__: type(layer)}
        new = keras.saving.deserialize_keras_object(config, own, safe_mode=False)  # the code is this process's
        if activation:
            new.activation = activation
        return new

    return again


def _inputs(model: Any) -> Any:
    """Inputs like the model's. Those that `clone_model` makes lose their layer's name, and that they are optional."""

    def again(tensor: Any) -> Any:
        layer = tensor._keras_history.operation  # an InputLayer, also where the model is a part of another's graph
        # Before Keras 3.13 the config does not say that an input is optional.
        return layer.from_config({**layer.get_config(), "optional": layer.optional}).output

    return keras.tree.map_structure(again, model.input)


def _own_activation(layer: Any) -> Callable[..., Any] | None:
    """The activation of a layer of Keras's, where it is a function. It is handed over: a config has its name alone, by
    which Keras may find another one (`keras.ops.gelu` and `keras.activations.gelu` are two), or none."""
    activation = vars(layer).get("activation")
    if str(type(layer).__module__).partition(".")[0] not in ("keras", "depthwise") or not callable(activation):
        return None
    return None if isinstance(activation, keras.Layer) else activation


def _is_graph(layer: Any) -> bool:
    """Whether Keras makes such a model from its graph; other functional models make their graph by code of theirs."""
    same = (getattr(type(layer), name) is getattr(Functional, name) for name in ("__init__", "get_config"))
    return isinstance(layer, Functional) and all(same)


def _own_objects(owners: Iterable[Any]) -> dict[str, Any]:
    """The classes and functions that configs name and Keras may not know: of the owners and of what they hold."""
    found: dict[str, set[Any]] = {}
    for owner in owners:
        for value in (owner, *vars(owner).values()):
            thing = value if inspect.isfunction(value) else type(value)
            if str(thing.__module__).partition(".")[0] not in ("builtins", "keras"):
                found.setdefault(thing.__name__, set()).add(thing)
    # Where two go by one name, Keras may find them still: registered, or at the top of a module.
    return {name: things.pop() for name, things in found.items() if len(things) == 1}


@contextlib.contextmanager
def _policy(policy: Any) -> Iterator[None]:
    """Makes a model under the policy that it has, by which `compile` tells whether to scale losses."""
    now = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(now)


@contextlib.contextmanager
def _uncompiled(layers: Iterable[Any]) -> Iterator[None]:
    """Keeps Keras from compiling what it makes: from a config, which names losses and metrics without holding them."""
    compiled = [layer for layer in layers if isinstance(layer, keras.Model) and layer.compiled]
    for model in compiled:
        model.compiled = False
    try:
        yield
    finally:
        for model in compiled:
            model.compiled = True


def _kind(layer: Any) -> Any:
    # Not the class itself: a layer that code of the user's own makes is Keras's again.
    return None if layer is None else (type(layer).__name__, [tuple(weight.shape) for weight in layer.weights])


def _described(layer: Any) -> str:
    if layer is None:
        return "no layer"
    name, shapes = _kind(layer)
    return f"layer {layer.name!r} ({name} with weights of shapes {shapes})"


def _hand_over_state(old: Any, new: Any) -> None:
    """What Keras saves of a layer, by the methods that load it: they refresh what a layer derives from its weights."""
    store: dict[str, Any] = {}
    old.save_own_variables(store)
    new.load_own_variables(store)
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    if new.trainable != old.trainable:
        new.trainable = old.trainable


def _compile(old: keras.Model, new: keras.Model) -> None:
    if type(old).compile is not keras.Model.compile:
        new.compile_from_config(old.get_compile_config())  # which warns where the class does not say how
        return
    given = old._compile_config.config
    with keras.saving.custom_object_scope(_own_objects(filter(_has_state, keras.tree.flatten(given)))):
        new.compile(**keras.tree.map_structure(_fresh, given))


def _has_state(value: Any) -> bool:
    return isinstance(value, (keras.Metric, keras.Optimizer))


def _fresh(value: Any) -> Any:
    if not _has_state(value):
        return value
    try:
        return type(value).from_config(value.get_config())
    except Exception as error:
        cause = (str(error).splitlines() or [""])[0]
        raise TypeError(
            "convert argument `model` must be compiled with metrics and an optimizer that Keras can make again from"
            f" their configs, but got {value!r}: it raises {type(error).__name__}: {cause}. Compile the model after you"
            " convert it, or with functions of a module, neither lambdas nor functions within others."
        ) from error
