"""Names of parametrised tests that tell every parameter, so that `-k "not taps"` leaves out what taps compute."""

from parameterized import parameterized


def by_all(function, index, parameters):
    """For `parameterized.expand(..., name_func=by_all)`."""
    words = "_".join(map(str, parameters.args))
    return f"{function.__name__}_{index:03}_{parameterized.to_safe_name(words)}"
