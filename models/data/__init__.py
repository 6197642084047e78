"""From an archive to what a network learns from.

dataset     feature rows -> sequences of windows, one per stream and unbroken time
labelling   labels of people -> the truth and the weight of each window
tasks       sequences -> what a task learns: a mode per window or per sequence, the next values, remaining life
splits      sequences -> folds whose sides share no machine
prior       simulated machines beside the recorded ones
"""
