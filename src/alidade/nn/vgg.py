"""VGG-like convolutional networks (Simonyan & Zisserman 2015) for images of 32 x 32."""

from __future__ import annotations

from torch import Tensor, nn

from alidade.core.errors import CallError
from alidade.nn.norm import CENTRING
from alidade.nn.norm import norm as make_norm
from alidade.nn.weights import initialize

#: Channels of the convolutions; "M" halves the image. These are the convolutions of VGG-11, 13, 16 and 19.
PLANS: dict[int, tuple[int | str, ...]] = {
    8: (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    10: (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    13: (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
    16: (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M"),
}


class VGG(nn.Module):
    """Convolutions 3x3 with an optional norm before each ReLU, max pooling, and one linear head.

    Layers are named as the paper counts them: ``features.conv5``, ``features.norm5``, ``features.relu5``, ``head``.
    """

    def __init__(self, features: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, 32, 32)."""
        logits: Tensor = self.head(self.features(images_NCHW).flatten(1))
        return logits


def vgg(
    conv_layers: int = 8,
    width: float = 1.0,
    norm: str = "none",
    init: str = "he",
    in_channels: int = 3,
    classes: int = 10,
) -> VGG:
    """A VGG with 8, 10, 13 or 16 convolutions, initialized from torch's global random state.

    Args:
        conv_layers: 8, 10, 13 or 16, the plans of VGG-11, 13, 16 and 19. The paper plots layer 13, so it had at
            least as many.
        width: factor on the channels 64, 128, 256, 512.
        norm: see :func:`alidade.nn.norm.norm`; it stands between convolution and ReLU. A convolution has no
            bias where the norm would subtract it again.
        init: "he" (He et al. 2015) or "glorot" (Glorot & Bengio 2010; the paper's). Biases start at 0.
        in_channels: of the images.
        classes: number of logits.

    Raises:
        CallError: an unknown number of layers, norm or init.

    >>> sum(p.numel() for p in vgg(8, width=0.125, norm="batch").parameters())
    145554
    """
    if conv_layers not in PLANS:
        raise CallError(f"conv_layers: expected one of {sorted(PLANS)}, got {conv_layers!r}")
    features = nn.Sequential()
    channels, number = in_channels, 0
    for entry in PLANS[conv_layers]:
        if isinstance(entry, str):
            features.add_module(f"pool{number}", nn.MaxPool2d(2))
            continue
        out, number = max(1, round(entry * width)), number + 1
        features.add_module(f"conv{number}", nn.Conv2d(channels, out, 3, padding=1, bias=norm not in CENTRING))
        features.add_module(f"norm{number}", make_norm(norm, out))
        features.add_module(f"relu{number}", nn.ReLU())
        channels = out
    network = VGG(features, nn.Linear(channels, classes))
    initialize(network, init)
    return network
