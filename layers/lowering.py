"""The argument `lowering` that the layers have and Keras's have not."""

from __future__ import annotations

from typing import Any

from depthwise.ops import check_lowering


class Lowered:
    """A layer whose convolution is computed by a lowering. Goes before Keras's class among the bases, to which it hands
    all arguments but that one."""

    lowering = "auto"

    def __init__(self, *args: Any, lowering: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_lowering(lowering, type(self).__name__)
        self.lowering = lowering

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]  # Keras's class comes after this one
        if self.lowering != "auto":
            # Left out by default, so that Keras's layer can be made from the config of this one.
            config["lowering"] = self.lowering
        return config
