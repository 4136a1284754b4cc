"""What all families share: steps of optimizers, and what they may ask for."""

import pytest
import torch
from helpers import batch_of, build, build_any, scaled_images, small_config, step_of

from raygen.config.run import PRESETS
from raygen.models.base import Model, Step
from raygen.models.dcgan import DCGAN
from raygen.models.layers import batch_norms

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


def trained(preset: str) -> Model:
    """A model with averages, after two steps."""
    model = build_any(small_config(preset, ema_images=100))
    image, images = model.config.image, model.config.step_images
    for number in range(2):
        shown = scaled_images(images, image.height, image.width, seed=number)
        model.update(batch_of(shown), step_of(number, images))
    return model


def states(model: Model) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, network in model.networks.items()
        for key, value in network.state_dict().items()
    }


@pytest.mark.parametrize("preset", ["dcgan-celeba", "dcgan-anime"])
def test_averages_get_statistics_of_their_own_weights(preset: str) -> None:
    model = trained(preset)
    name = "generator_ema"
    before, random = states(model), torch.get_rng_state()
    model.refresh_averages()
    after = states(model)
    assert torch.equal(torch.get_rng_state(), random)
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {key for key in after if key.startswith(name) and "running" in key}
    assert not any(module.training for module in model.networks[name].modules())
    # The first layer's, of its own inputs: the same for latents that were drawn anew.
    average, [first, *_] = model.networks[name], batch_norms(model.networks[name])
    inputs: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        average(torch.randn(2_000, *model.latent_shape))
    hook.remove()
    dimensions = [0, *range(2, inputs[0].ndim)]
    error = (first.running_mean - inputs[0].mean(dimensions)).abs() / inputs[0].std(dimensions)
    assert error.max() < 0.3
    ratio = first.running_var / inputs[0].var(dimensions)
    assert 0.7 < ratio.min() <= ratio.max() < 1.4
    # Once more changes nothing.
    model.refresh_averages()
    assert all(torch.equal(value, after[key]) for key, value in states(model).items())


@pytest.mark.parametrize("world_size", [2, 3, 16])
def test_workers_refresh_averages_together_as_one_does_alone(world_size: int) -> None:
    model = trained("dcgan-anime")
    parts = []
    for rank in range(world_size):
        model.refresh_averages(rank, world_size)
        parts.append(states(model))
    model.refresh_averages()
    for name, value in states(model).items():
        together = torch.stack([part[name].double() for part in parts]).mean(0)
        torch.testing.assert_close(together, value.double(), rtol=1e-5, atol=1e-6, msg=name)


def test_refreshing_does_not_show_in_the_training() -> None:
    results = []
    for refreshes in (False, True):
        # For dropout, whose masks refreshing must not change either.
        torch.manual_seed(0)
        model = trained("dcgan-anime")
        if refreshes:
            model.refresh_averages()
        images = scaled_images(model.config.step_images, 64, 64, seed=7)
        results.append(model.update(batch_of(images), step_of(2, len(images))) | states(model))
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())


@pytest.mark.parametrize("preset", ["vae-celeba", "vaegan-anime"])
def test_decoders_that_reconstruct_keep_the_statistics_of_the_trained_network(preset: str) -> None:
    model = trained(preset)
    model.refresh_averages()
    for name in ("encoder", "decoder"):
        buffers = dict(model.networks[name].named_buffers())
        for key, value in model.networks[f"{name}_ema"].named_buffers():
            assert torch.equal(value, buffers[key]), (name, key)


def test_without_averages_there_is_nothing_to_refresh() -> None:
    model = build(DCGAN, small_config("dcgan-celeba"))
    before = states(model)
    model.refresh_averages()
    assert all(torch.equal(before[name], value) for name, value in states(model).items())


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("vae-celeba", {}),
        ("dcgan-celeba", {"schedule": "2:1"}),
        ("dcgan-anime", {"schedule": "two-phase"}),
        ("vaegan-anime", {}),
        ("vaegan-anime", {"objective": "article"}),
        ("vaegan-anime", {"objective": "article", "schedule": "1:3"}),
    ],
)
def test_networks_are_updated_as_often_as_their_options_say(
    preset: str, options: dict[str, object]
) -> None:
    model = build_any(small_config(preset, **options))
    taken = dict.fromkeys(model.trained, 0)
    for optimizer in model.optimizers.values():
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        names = [n for n in taken if id(next(model.networks[n].parameters())) in mine]

        def count(*_: object, names: list[str] = names) -> None:
            for name in names:
                taken[name] += 1

        optimizer.register_step_post_hook(count)
    image, images, total = model.config.image, model.config.step_images, 7
    for number in range(total):
        shown = scaled_images(images, image.height, image.width, seed=number)
        model.update(batch_of(shown), step_of(number, images, total))
        assert model.config.updates(number + 1, total) == taken


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
