"""Rules about the code itself."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USES_RAY = {
    "raygen/benchmarks/empty_trainer.py",
    "raygen/benchmarks/evaluate.py",
    "raygen/benchmarks/figures.py",
    "raygen/benchmarks/ingest.py",
    "raygen/benchmarks/soak.py",
    "raygen/cluster/connection.py",
    "raygen/cluster/growth.py",
    "raygen/data/prepare/parts.py",
    "raygen/data/stream/ray_data.py",
    "raygen/data/shards/object_store.py",
    "raygen/jobs/evaluate.py",
    "raygen/measuring/dispatch.py",
    "raygen/measuring/during_training.py",
    "raygen/measuring/measurement.py",
    "raygen/measuring/own_extractor.py",
    "raygen/cluster/local_ray.py",
    "raygen/cluster/private_ray.py",
    "raygen/cluster/terminal.py",
    "raygen/training/elastic.py",
    "raygen/training/overseer.py",
    "raygen/training/planned_shards.py",
    "raygen/training/process_group.py",
    "raygen/training/ray_driver.py",
    "raygen/training/ray_worker.py",
    "raygen/tuning/optuna_search.py",
    "raygen/tuning/planned_search.py",
    "raygen/tuning/schedulers.py",
    "raygen/tuning/gpu_sharing.py",
    "raygen/tuning/speed.py",
    "raygen/tuning/sweep.py",
    "raygen/tuning/trial.py",
}

LARGE = {"numpy", "pyarrow", "ray", "tensorboard", "torch"}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_ray_is_imported_in_few_places() -> None:
    users = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "raygen").rglob("*.py")
        if any(name.split(".")[0] == "ray" for name in imported(file))
    }
    assert users == USES_RAY


def test_models_and_the_loop_work_where_ray_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import raygen.training.run_session, raygen.models\n"
        "import raygen.inference.model, raygen.inference.export\n"
        "from raygen.config.run import PRESETS\n"
        "for preset in PRESETS.values():\n"
        "    raygen.models.build_model(preset.updated({'width': 0.02}, ''))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_actors_that_only_pass_on_what_is_told_load_no_torch() -> None:
    code = (
        "import sys; import raygen.data.prepare.parts, raygen.core.status\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_training_may_start_ray_before_torch_is_loaded() -> None:
    code = "import sys; import raygen.jobs.train; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_options_load_no_large_library() -> None:
    code = (
        "import sys; import raygen.config.run, raygen.config.job, raygen.tuning.options\n"
        f"loaded = {LARGE} & sys.modules.keys()\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")), ids=lambda job: job.stem)
def test_help_and_mistakes_load_no_large_library(job: Path) -> None:
    # Run as __main__ in this process, which then looks at what has been loaded.
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as exit: code = exit.code\n"
        f"loaded = {LARGE} & sys.modules.keys()\n"
        "assert not loaded, loaded\n"
        "sys.exit(code)"
    )
    for word, expected in (("--help", 0), ("--no-such-option", 2)):
        command = [sys.executable, "-c", code, str(job), word]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
        )
        assert done.returncode == expected, done.stderr.decode()


def test_workers_are_not_restarted_through_uv() -> None:
    code = (
        "import os; os.environ.pop('RAY_ENABLE_UV_RUN_RUNTIME_ENV', None)\n"
        "import ray; assert ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV\n"
        "import raygen; assert os.environ['RAY_ENABLE_UV_RUN_RUNTIME_ENV'] == '0'\n"
        "import raygen.cluster.connection\n"
        "assert not ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
