"""The training program: one run, from a YAML file to its records.

``config`` reads the file, ``data`` gives batches, ``objectives`` gives the loss, ``setup`` builds
the pieces of a run, ``step`` is one optimizer update, ``loop`` trains. ``records`` holds what a run
writes: checkpoints, metrics, its summary. ``distributed`` holds meshes and several processes.
"""
