"""Decoders of token models: importing this package registers all of them in ``DECODERS``."""

from gensci.samplers.decoders import beams, independent, speculative, stochastic_beam
from gensci.samplers.decoders.base import Decoded, Decoder, TokenModel, log_prob, make_decoder
from gensci.samplers.decoders.constraints import (
    AllowedTokens,
    Constrained,
    ExactMultiset,
    Rule,
    constrain,
)

__all__ = [
    "AllowedTokens",
    "Constrained",
    "Decoded",
    "Decoder",
    "ExactMultiset",
    "Rule",
    "TokenModel",
    "beams",
    "constrain",
    "independent",
    "log_prob",
    "make_decoder",
    "speculative",
    "stochastic_beam",
]
