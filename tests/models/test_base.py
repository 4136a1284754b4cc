"""What all families share: steps of optimizers, and what they may ask for."""

import pytest
import torch
from helpers import batch_of, build, build_any, scaled_images, small_config, step_of

from raygen.config.run import PRESETS
from raygen.models.base import Step
from raygen.models.dcgan import DCGAN

pytestmark = pytest.mark.numeric


def weights(model: DCGAN) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.networks["generator"].parameters()])


def moved(model: DCGAN, size: float, step: Step) -> torch.Tensor:
    """How far an optimizer's step moves the generator, with all gradients of one size."""
    before = weights(model).clone()
    for parameter in model.networks["generator"].parameters():
        parameter.grad = torch.full_like(parameter, size)
    model.take_step("generator", step)
    return weights(model) - before


def with_sgd() -> DCGAN:
    model = build(DCGAN, small_config("dcgan-celeba"))
    parameters = model.networks["generator"].parameters()
    model.optimizers["generator"] = torch.optim.SGD(parameters, 0.1)
    return model


def test_a_family_s_schedule_scales_the_rate_of_a_step_and_no_more() -> None:
    model = with_sgd()
    model.learning_rate_factor = lambda step: 0.5 if step.number else 1.0  # type: ignore[method-assign]
    first, second = moved(model, 1.0, step_of(0)), moved(model, 1.0, step_of(1))
    torch.testing.assert_close(first, torch.full_like(first, -0.1))
    torch.testing.assert_close(second, torch.full_like(first, -0.05))
    assert model.optimizers["generator"].param_groups[0]["lr"] == 0.1


def test_gradients_are_clipped_to_a_family_s_norm() -> None:
    model = with_sgd()
    model.max_grad_norm = 2.0
    step = moved(model, 3.0, step_of(0))
    assert float(step.norm()) == pytest.approx(0.1 * 2, rel=1e-3)
    small = moved(model, 1e-3, step_of(1))
    torch.testing.assert_close(small, torch.full_like(small, -1e-4), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_family_says_how_its_networks_are_called(preset: str) -> None:
    model = build_any(small_config(preset))
    assert set(model.interfaces) <= set(model.networks)
    assert model.can_encode == ("encoder" in model.interfaces)
    for name, interface in model.interfaces.items():
        outputs = model.evaluate(name, *(torch.zeros(2, *s) for s in interface.inputs.values()))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert len(outputs) == len(interface.outputs)
        if interface.outputs == ("images",):
            assert outputs[0].shape[1:] == model.image_shape


def test_what_cannot_encode_says_so() -> None:
    model = build(DCGAN, small_config("dcgan-celeba"))
    with pytest.raises(NotImplementedError, match="DCGAN has no latents of images"):
        model.encode(scaled_images(1, 32, 32))


def test_attributes_make_no_difference_to_families_that_learn_nothing_of_them() -> None:
    results = []
    for value in (-1, 1):
        model = build(DCGAN, small_config("dcgan-celeba"))
        known = torch.full((8, 3), value, dtype=torch.int8)
        results.append(model.update(batch_of(scaled_images(8, 32, 32), known), step_of(0)))
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())
