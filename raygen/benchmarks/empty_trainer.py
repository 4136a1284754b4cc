"""A Ray Train script as a user would write it, with nothing to train.

python empty_trainer.py FILE

When a worker's function is called, it appends the Unix time to FILE, as a line. Does not import
raygen, so as to be what a job of raygen's is compared with.
"""

import sys
import time

import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

WORKERS = 2


def train(settings: dict[str, str]) -> None:
    now = time.time()
    with open(settings["file"], "a") as file:
        file.write(f"{now}\n")


def main() -> None:
    ray.init()
    TorchTrainer(
        train,
        train_loop_config={"file": sys.argv[1]},
        scaling_config=ScalingConfig(num_workers=WORKERS),
    ).fit()


if __name__ == "__main__":
    main()
