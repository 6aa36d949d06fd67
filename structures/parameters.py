"""Parameters as the model hands them to the optimiser."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that are trained at one learning rate.

    Attributes:
        name: in the log.
        parameters: in the order of the model, by which the states of an optimiser are stored.
        is_hidden_matrix: of each parameter, whether it is a matrix between hidden layers, as Muon requires.
        lr: peak learning rate.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    is_hidden_matrix: tuple[bool, ...]
    lr: float
