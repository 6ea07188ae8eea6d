"""Devices: memory, precision, batches in chunks, recorded steps.

Enter at `chunks.Passes`, which passes batches through the encoder in chunks that fit the memory.
`memory.autocast` is the precision, and `repeated.Repeated` a step that a GPU replays as a CUDA
graph.
"""
