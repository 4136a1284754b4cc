"""What each metric means, in a sentence that TensorBoard shows beside its curve."""

DESCRIPTIONS = {
    "accuracy/discriminator": "Share of real and generated images that the discriminator takes for "
    "what they are; at 0.5 it cannot tell them apart.",
    "loss/decoder": "What the decoder minimises: adversarial and weighted reconstruction loss.",
    "loss/discriminator": "What the discriminator minimises, per image.",
    "loss/discriminator_fake": "The discriminator's loss on generated images.",
    "loss/discriminator_real": "The discriminator's loss on images of the dataset.",
    "loss/discriminator_reconstruction": "The discriminator's loss on reconstructions.",
    "loss/encoder": "What the encoder minimises: KL divergence and reconstruction loss.",
    "loss/feature_distance": "Squared distance of images and their reconstructions in the "
    "discriminator's features, per image.",
    "loss/generator": "What the generator minimises, per image. It is low only against the "
    "discriminator of that moment, so it says little of quality.",
    "loss/generator_fake": "The generator's adversarial loss on images made from noise.",
    "loss/generator_reconstruction": "The generator's adversarial loss on reconstructions.",
    "loss/gradient_penalty": "How far the norm of the critic's gradient is from 1, squared.",
    "loss/kl": "KL divergence of the codes from the prior, in nats per image.",
    "loss/mse": "Mean squared error of reconstructions, over pixels in [-1, 1].",
    "loss/total": "What is minimised: reconstruction error and weighted KL divergence.",
    "loss/vae": "What the VAE step minimises: reconstruction error and KL divergence.",
    "quality/swd": "Sliced Wasserstein distance between samples and validation images, times 1000; "
    "lower is better. Compare values of one number of validation images only.",
    "throughput/data_wait_fraction": "Share of the time that training waits for images.",
    "throughput/images_per_second": "Images that all workers together train on in a second.",
}
"""By tag. One under validation/ means the same as that under loss/."""


def description(tag: str) -> str:
    """A sentence for a metric; empty if there is none."""
    group, _, name = tag.partition("/")
    if group != "validation":
        return DESCRIPTIONS.get(tag, "")
    known = DESCRIPTIONS.get(f"loss/{name}")
    return f"On validation images: {known[0].lower()}{known[1:]}" if known else ""
