"""What the commands of a model run; each module puts the other rooms together.

train          archive -> version            `thrumcast train`
values         the same for real numbers     `thrumcast train --set task=next`, and their evaluation
evaluate       version -> numbers            `thrumcast evaluate`
compare        several cells on one split    `thrumcast train --compare`
registration   the last step of a training: a working model becomes a version
worker         a training in a process of its own, for the live page
promotion      which version serves          `thrumcast promote`, `thrumcast rollback`
"""
