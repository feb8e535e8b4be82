"""Variant: what a CI2P-ViT of one scale may have that the paper's has not. For searches; ours."""

from dataclasses import dataclass, fields
from typing import Any

from ci2p_cache.errors import InputError
from pipeline.models.patch_reshape import STRIDES


@dataclass(frozen=True)
class Variant:
    """The defaults are the paper's. A recipe's keys of the same names say what each of them is."""

    tokens: int = 64
    class_token: bool = False
    registers: int = 0
    pos_embed: str = "none"
    layer_scale: float = 0.0

    def arguments(self) -> dict[str, Any]:
        """For timm's VisionTransformer, of what departs from the paper alone. Raises KeyError for other tokens."""
        found: dict[str, Any] = {}
        if self.tokens != PAPER.tokens:
            found["patch_size"] = STRIDES[self.tokens]
        if self.class_token:
            found |= {"class_token": True, "global_pool": "token"}
        if self.registers:
            found["reg_tokens"] = self.registers
        if self.pos_embed != PAPER.pos_embed:
            found["pos_embed"] = self.pos_embed
        if self.layer_scale:
            found["init_values"] = self.layer_scale
        return found


PAPER = Variant()
VARIANT_FIELDS = tuple(field.name for field in fields(Variant))


def refuse_variant(variant: Variant, model: str, one_scale: bool) -> None:
    """Raises InputError where a model cannot be had so; `one_scale` says whether it is a ci2p_vit of one scale."""
    if one_scale and variant.tokens in STRIDES:
        return
    for name in VARIANT_FIELDS:
        value, usual = getattr(variant, name), getattr(PAPER, name)
        if value != usual:
            raise InputError(
                f"{name} = {value} with model '{model}': ci2p_vit_tiny, _small, _base and _large alone have it to "
                f"choose ({_CHOICES[name]}), and every other model has its own; name one of these, or leave {name} "
                f"at {usual}"
            )


_CHOICES = {
    "tokens": "64 or 256 tokens of 256 x 256 pixels",
    "class_token": "true or false",
    "registers": "a number of tokens",
    "pos_embed": "none or learn",
    "layer_scale": "what it begins with",
}
