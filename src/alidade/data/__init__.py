"""Images, labels and the order in which they come."""

from alidade.data.batches import Batches as Batches
from alidade.data.batches import batch_indices as batch_indices
from alidade.data.catalog import load as load
from alidade.data.dataset import Dataset as Dataset
from alidade.data.dataset import fingerprint as fingerprint
