"""Models by name, their layers, their activations and their receptive fields. The only floor that runs networks."""

from .layers import list_layers, resolve_layers
from .loading import LoadedModel, hash_state, load_model, name_object
from .probe import field_maps
from .structure import hash_structure

__all__ = [
    "LoadedModel",
    "field_maps",
    "hash_state",
    "hash_structure",
    "list_layers",
    "load_model",
    "name_object",
    "resolve_layers",
]
