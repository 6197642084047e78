"""From predictions to numbers that people can judge.

metrics        numbers per window: F1, AUROC, calibration
events         numbers per fault and per alarm, and one verdict per recording
scoring        a predictor run over sequences, and all its numbers
alarm_replay   archived predictions under other alarm settings
version_diff   two versions side by side
diagnosis      the self-test of a model, and the causes of a collapse
report         numbers as text
plots          numbers as pictures
card           the model card
"""
