"""The op: depthwise_conv2d and explain."""
