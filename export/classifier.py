"""A network with the stages that the published graph adds: normalisation before it and softmax after it.

Training, verification and conversion all use these modules, so there is only one normalisation.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from export.architectures import ARCHITECTURES, Network, Sizes
from export.errors import RecipeInvalid
from export.recipe import Recipe
from service.spec import ImageSpec, TextSpec


class PictureFront(nn.Module):
    """Turns uint8 (N, H, W, C) into normalised float32 (N, C, H, W)."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, spec: ImageSpec) -> None:
        """Fold scale, mean and std into one multiplication and one subtraction per channel."""
        super().__init__()
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise."""
        x = images.float() * self.scale - self.shift  # (N, H, W, C)
        return x.permute(0, 3, 1, 2)  #                 (N, C, H, W)


class Classifier(nn.Module):
    """Turns a request's tensor into logits (N, K)."""

    def __init__(self, network: Network, spec: ImageSpec | TextSpec) -> None:
        """Put the normalisation before a picture network, and nothing before a sentence network."""
        super().__init__()
        self.front: nn.Module = PictureFront(spec) if isinstance(spec, ImageSpec) else nn.Identity()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits (N, K) for uint8 (N, H, W, C) or int64 (N, L)."""
        logits: torch.Tensor = self.network(self.front(inputs))
        return logits


class Probabilities(nn.Module):
    """The module that is published: a classifier and softmax."""

    def __init__(self, classifier: Classifier) -> None:
        """Keep the classifier."""
        super().__init__()
        self.classifier = classifier

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return probabilities (N, K)."""
        logits: torch.Tensor = self.classifier(inputs)
        return logits.softmax(dim=1)

    def answer(self, inputs: np.ndarray) -> np.ndarray:
        """Return float32 (N, K) for one batch, in whichever mode (training or evaluation) the module is."""
        with torch.inference_mode():
            answer: np.ndarray = self(torch.from_numpy(inputs)).numpy()
            return answer


def build_classifier(recipe: Recipe, sizes: Sizes) -> Classifier:
    """Return the recipe's classifier with initial weights from torch's global generator.

    Raises:
        RecipeInvalid: The architecture does not support these sizes, or has word vectors to train and the
            recipe gives them no learning rate.
    """
    try:
        network = ARCHITECTURES[recipe.architecture].build(recipe.options, sizes)
    except ValueError as error:
        raise RecipeInvalid(f"{recipe.name}: {error}") from None
    if network.sparse_parameters() and recipe.training.sparse_learning_rate <= 0:
        raise RecipeInvalid(f"{recipe.name}: training.sparse_learning_rate must be positive for {recipe.architecture}")
    return Classifier(network, recipe.spec)
