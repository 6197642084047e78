"""Models of failure modes: a feature archive goes in, model versions come out.

    archive --data--> sequences --training--> weights --bundle--> registry/vNNNN --predictor--> the service

    network     the recurrent network in torch: what is trained        data/        rows become sequences
    cells       the same arithmetic in numpy: what serves              training/    sequences become weights
    predictor   a version in service: (x, h) -> (probabilities, h)     evaluation/  numbers, reports, pictures
    bundle      a version as a directory of files                      jobs/        what the commands run
    registry    versions and aliases such as `champion`
    settings    every setting of a training, with its default
    scaling     scaling of features
    places      weights by which bearing lines act on their modes
    unknown     windows that fit no known mode
    drift       whether the inputs are still distributed as in training
    forecast    the next failure modes, from the state of the network
    explain     which inputs a prediction depends on
    export      a version as ONNX

A machine that serves needs no torch: only `network`, `training` and `jobs` import it.
"""
