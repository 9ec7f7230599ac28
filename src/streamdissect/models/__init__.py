"""Models by name, their layers, their activations and their receptive fields. The only floor that runs networks."""

from .layers import list_layers, resolve_layers
from .loading import LoadedModel, load_model
from .probe import field_maps

__all__ = ["LoadedModel", "field_maps", "list_layers", "load_model", "resolve_layers"]
