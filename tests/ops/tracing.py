"""What code sees while a function is traced."""

import tensorflow as tf


def traced(function, **options):
    """What the function returned while it was traced."""
    seen = []
    tf.function(lambda: seen.append(function()), autograph=False, **options)()
    return seen[0]
