"""From sequences to weights.

loop         truncated back-propagation with carried state: `fit`, `predict`
objective    what is made small: cross-entropy of modes, squared error of values
augment      changes to features that keep the physics
folds        cross-validation, the choice of an aim, the final fit
checkpoint   a run on disk and on the screen: resume, metrics.jsonl, progress
values       models of real numbers, and their errors
forecast     the decoder that forecasts modes, and its numbers
"""
