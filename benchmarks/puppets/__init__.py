"""A drawn world of moving puppets with known ground truth, and a small model trained on it.

`world` makes scenes from seeds (character, background, motion), `dataset` puts them on disk, `model` is the
shape of the small model in the public checkpoint layout, `train` trains it stage by stage. `measure` says how
good it is, and `tradeoffs` what each setting of the runtime does to its pictures.
"""
