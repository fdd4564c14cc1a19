"""The parts of :func:`optim.loop.run`."""
