"""What code sees while a function is traced, and what is left of it to run."""

import collections

import tensorflow as tf
from tensorflow.python.eager import context  # the only way to a graph as it runs


def traced(function, **options):
    """What the function returned while it was traced."""
    seen = []
    tf.function(lambda: seen.append(function()), autograph=False, **options)()
    return seen[0]


def operations_that_run(run, *arguments):
    """How often each op stands in the graph of a function when Grappler is done with it."""

    @tf.function(autograph=False)
    def function(*arguments):
        with tf.name_scope("of_this_function"):
            return run(*arguments)

    def ours(graph):
        return sum("of_this_function" in node.name for node in graph.node)

    context.context().enable_run_metadata()
    try:
        function(*arguments)
        graphs = context.context().export_run_metadata().partition_graphs  # of what else runs meanwhile, too
    finally:
        context.context().disable_run_metadata()
    return collections.Counter(node.op for node in max(graphs, key=ours).node)
