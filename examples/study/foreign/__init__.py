"""Small third-party networks, with data of the right shape.

Nothing here imports keras_bimp, because processes without it use this package.
"""

from . import applications
from . import hub
from . import tutorials
from .network import Network as Network

FAMILIES = {
    "keras.applications": applications.NETWORKS,
    "KerasHub": hub.NETWORKS,
    "keras.io": tutorials.NETWORKS,
}
NETWORKS = {
    name: build
    for networks in FAMILIES.values()
    for name, build in networks.items()
}
