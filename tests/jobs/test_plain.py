"""The ports that raygen's step is measured against compute what raygen computes."""

from unittest import mock

import pytest
import torch
from helpers import batch_of, build_any, in_double_precision, scaled_images, small_config
from torch import nn

from raygen.benchmarks.plain import PLAIN
from raygen.config.run import RunConfig
from raygen.models.base import Model, Step
from raygen.models.layers import PRIOR_NOISE, TRAINING_NOISE

pytestmark = pytest.mark.numeric

STEPS = 3


def config(preset: str) -> RunConfig:
    options: dict[str, object] = {"ema_images": 40}
    if preset == "vaegan-anime":
        options["schedule"] = "1:1"
    return small_config(preset, **options)


def noise_of(model: Model, step: Step) -> list[torch.Tensor]:
    """The noise that a model draws in a step: that of the latents, and of the prior."""
    drawn = [model.noise(step, step.images, TRAINING_NOISE)]
    if model.config.preset == "dcgan-anime":
        drawn.append(model.noise(step, model.config.batch_size, PRIOR_NOISE))
    elif model.config.preset == "vaegan-anime":
        drawn.append(model.noise(step, step.images, PRIOR_NOISE))
    return drawn


def without_dropout(network: nn.Module) -> list[float]:
    """Switch dropout off, whose mask depends on the memory layout. Returns: the rates it had."""
    rates = []
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            rates.append(layer.p)
            layer.p = 0.0
    return rates


@pytest.mark.parametrize("preset", PLAIN)
def test_the_port_and_raygen_compute_the_same_steps(preset: str) -> None:
    run = config(preset)
    model, port = build_any(run), PLAIN[preset](run)
    pairs = [(model.networks[name], network) for name, network in port.networks.items()]
    pairs += [(model.networks[f"{name}_ema"], average) for name, average in port.averages.items()]
    assert len(pairs) == len(model.networks)
    for mine, plain in pairs:
        assert without_dropout(mine) == without_dropout(plain)
        values = mine.state_dict().values()
        plain.load_state_dict(dict(zip(plain.state_dict(), values, strict=True)))
        plain.double()

    image = run.image
    with in_double_precision(model), mock.patch.object(model, "uses_dropout", False):
        for number in range(STEPS):
            real = scaled_images(run.step_images, image.height, image.width, seed=number).double()
            step = Step(number, 10, run.step_images, number * run.step_images)
            metrics = model.update(batch_of(real), step)
            losses = port.update(real, *noise_of(model, step))
            for name, loss in losses.items():
                torch.testing.assert_close(metrics[name], loss, rtol=1e-6, atol=1e-9, msg=name)

    for name, (mine, plain) in zip([*port.networks, *port.averages], pairs, strict=True):
        both = zip(mine.state_dict().items(), plain.state_dict().values(), strict=True)
        for (key, value), expected in both:
            where = f"{name} {key}"
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8, msg=where)
    for mine, plain in pairs[: len(port.networks)]:
        for parameter, expected_parameter in zip(
            mine.parameters(), plain.parameters(), strict=True
        ):
            torch.testing.assert_close(
                parameter.grad, expected_parameter.grad, rtol=1e-6, atol=1e-9
            )
