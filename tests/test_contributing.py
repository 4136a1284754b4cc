"""The example in CONTRIBUTING.md: one file and one preset are all that a new family needs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FAMILY, OPTIONS, PRESET = re.findall(
    r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
)
SMALL = "--width 0.2 --batch-size 16 --validation-count 16 --sample-count 4 --drawn-count 80"
USE = f"""
import sys
from pathlib import Path

import torch

import raygen
from raygen.cluster import connection as cluster
from raygen.cli import run_job
from raygen.models import build_model

sys.path.insert(0, "jobs")
import export, sample, train, tune

def run(job, line):
    sys.argv = ["job", *line.split()]
    code = run_job(job.main)
    assert code == 0, (job, line)

with cluster.connected(num_cpus=2):
    run(train, "flow-celeba --num-workers 2 --steps 150 --log-images 16 {SMALL}")
    run(tune, "flow-celeba --trials 2 --scheduler none --steps 4 --run-name sweep {SMALL}")
run(sample, "runs/flow-celeba -n 20 --format npz --out samples.npz")
run(sample, "runs/flow-celeba -n 4 --out samples.png")
run(export, "runs/flow-celeba --format torch-export --out exported")

trained = raygen.load("runs/flow-celeba")
assert trained.step == 150 and trained.latent_shape == (3, 32, 32)
raygen.load("runs/sweep/trials/001")
program = torch.export.load("exported/velocity.pt2").module()
images, times = torch.randn(5, 3, 32, 32), torch.rand(5)
with torch.no_grad():
    expected = trained.model.evaluate("velocity", images, times)
torch.testing.assert_close(program(images, times), expected, rtol=1e-3, atol=1e-3)
"""


@pytest.mark.slow
def test_the_example_is_trained_swept_sampled_exported_and_loaded(tmp_path: Path) -> None:
    for name in ("raygen", "jobs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "raygen/models/flow.py").write_text(FAMILY)
    for name, added in ("families.py", OPTIONS), ("run.py", PRESET):
        with (tmp_path / "raygen/config" / name).open("a") as file:
            file.write("\n\n" + added)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(tmp_path), "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    curve = [
        json.loads((place / "state.json").read_text())["metrics"]
        for place in sorted((tmp_path / "runs/flow-celeba/checkpoints").iterdir())
    ]
    # A network that learns nothing explains nothing of the noise's variance, which is 1.
    assert curve[-1]["loss/velocity"] < 0.8
    assert curve[-1]["quality/swd"] > 0
    arrays = np.load(tmp_path / "samples.npz")
    assert arrays["codes"].shape == (20, 3, 32, 32)
    assert len(np.unique(arrays["images"], axis=0)) == 20
    assert Image.open(tmp_path / "samples.png").size[0] > 64
    best = json.loads((tmp_path / "runs/sweep/best.json").read_text())
    assert (best["preset"], best["family"]) == ("flow-celeba", "flow:RectifiedFlow")


def test_the_example_is_short() -> None:
    code = FAMILY[FAMILY.index("class RectifiedFlow") :]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 50
