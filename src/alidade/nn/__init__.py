"""Layers and networks: what the paper trains, and what a study of your own may want."""

from alidade.nn.linear import DeepLinear as DeepLinear
from alidade.nn.linear import deep_linear as deep_linear
from alidade.nn.lp import LpNorm as LpNorm
from alidade.nn.norm import GroupRMSNorm as GroupRMSNorm
from alidade.nn.norm import NoisyBatchNorm as NoisyBatchNorm
from alidade.nn.norm import UnitNoise as UnitNoise
from alidade.nn.norm import norm as norm
from alidade.nn.resnet import ResNet as ResNet
from alidade.nn.resnet import resnet as resnet
from alidade.nn.transformer import Transformer as Transformer
from alidade.nn.transformer import transformer as transformer
from alidade.nn.vgg import VGG as VGG
from alidade.nn.vgg import vgg as vgg
from alidade.nn.weights import initialize as initialize
