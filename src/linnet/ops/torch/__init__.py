"""The torch op set: the same operations on PyTorch's tensors, for every device that it drives. Needs the extra `torch`."""
