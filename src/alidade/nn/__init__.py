"""Layers and networks: what the paper trains, and what a study of your own may want."""

from alidade.nn.norm import NoisyBatchNorm as NoisyBatchNorm
from alidade.nn.norm import UnitNoise as UnitNoise
from alidade.nn.norm import norm as norm
from alidade.nn.vgg import VGG as VGG
from alidade.nn.vgg import initialize as initialize
from alidade.nn.vgg import vgg as vgg
