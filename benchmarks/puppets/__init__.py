"""A drawn world of moving puppets with known ground truth, and a small model trained on it.

`world` draws scenes from seeds (character, background, motion). `training` writes them to disk and trains the
small model stage by stage, in the public checkpoint layout. `evaluation` measures the quality of the model,
and the effect of each runtime setting on it.
"""
