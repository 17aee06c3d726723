"""Vision transformers of torchvision."""

from torchvision.models import VisionTransformer

NETWORKS = {  # a network, and the size of its images
    "vit": (
        VisionTransformer(
            image_size=32,
            patch_size=4,
            num_layers=9,
            num_heads=3,
            hidden_dim=192,
            mlp_dim=4 * 192,
            num_classes=10,
        ),
        32,
    ),
}
