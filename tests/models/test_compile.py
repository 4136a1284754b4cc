"""Compiled networks compute what they compute uncompiled."""

import logging
import shutil

import pytest
import torch
from helpers import batch_of, build_any, scaled_images, small_config, step_of

from raygen.config.run import PRESETS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_model_takes_the_same_steps(caplog: pytest.LogCaptureFixture) -> None:
    # The gradient penalty differentiates twice, and `larsen` takes gradients of one graph in two
    # passes; neither is a matter of course for compiled networks.
    caplog.set_level(logging.WARNING)
    preset = "vaegan-anime"
    options = {"schedule": "1:1", "latent_size": 8, "adversarial_loss": "wasserstein-gp"}
    config = small_config(preset, batch_size=4, **options)
    image = PRESETS[preset].image
    metrics = []
    for compiled in (False, True):
        model = build_any(config)
        if compiled:
            model.compile()
        for k in range(2):
            real = scaled_images(4, image.height, image.width, seed=k)
            step = model.update(batch_of(real), step_of(k, 4))
        metrics.append(step)
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[0].items():
        torch.testing.assert_close(metrics[1][name], value, rtol=1e-3, atol=1e-4)
