"""The modelling side: feature archives in, model versions out.

    archive --dataset--> sequences --splits--> folds --training--> weights --bundle--> registry/vNNNN
                                                                                            |
                                    pipeline/drivers <--Predictor.step-- predictor <--------+

`network` is the GRU on one page, `predictor` the same arithmetic in plain numpy for serving,
`bundle` a directory that explains itself, `metrics` and `events` the honest numbers.
Only `network`, `training` and `crossval` import torch; a machine that serves needs none of them.
"""
