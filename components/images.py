"""The images that the steps run in on a cluster. Under kfp's SubprocessRunner they are names only."""

DATA_IMAGE = "matta/data-python3.11:0.1.0"
TRAINER_IMAGE = "matta/trainer-python3.11:0.1.0"
EVALUATOR_IMAGE = "matta/evaluator-python3.11:0.1.0"
