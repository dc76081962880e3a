"""Speed of every op on a Hopper GPU: ``python -m bench <op>`` from the repository root.

Each op's shapes, inputs and calls stand in one file. Timing, clock and L2 flush are
``harness.py``; floating-point operations and bytes ``formulas.py``; what the device can do at
most ``ceilings.py``; other packages measured on the same tensors ``peers.py``.
"""
