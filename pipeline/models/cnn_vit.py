"""CNN-ViT, the paper's control: CI2P-ViT with an encoder that is drawn at random and trained with the rest.

    pixels [B,3,256,256] -> analysis transform -> latents [B,192,16,16] -> CI2P-ViT -> logits [B,K]

What it lacks against CI2P-ViT is what compression taught the encoder. Pixels are floats in [0,1].
"""

# B batch, S image size, N tokens, D width, K classes

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.models.ci2p_vit import ci2p_vit_settings
from pipeline.models.patch_reshape import LATENT_CHANNELS
from pipeline.models.pixel_vit import IMAGE_SIZE, pixel_cfg
from pipeline.transforms import GDN, PIXELS_PER_LATENT, AnalysisTransform

default_cfgs = generate_default_cfgs({name: pixel_cfg("encoder.0", "vit.head") for name in ("cnn_vit", "cnn_vit_tiny")})


class CnnVit(nn.Module):
    """`encoder`, then `vit`. Takes `img_size` in pixels and the other arguments of timm's VisionTransformer."""

    def __init__(self, img_size: int | tuple[int, int] = IMAGE_SIZE, in_chans: int = 3, **kwargs: Any) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.in_chans = in_chans
        self.encoder = AnalysisTransform()
        settings = ci2p_vit_settings(LATENT_CHANNELS, (height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT))
        self.vit = VisionTransformer(**(settings | kwargs))

    @property
    def num_classes(self) -> int:
        """Of the classifier; timm asks for it by this name, as for the methods below."""
        return int(self.vit.num_classes)

    def forward_features(self, pixels_B3SS: Tensor) -> Tensor:
        """float [B,3,S,S] -> normalised tokens, float [B,N,D]."""
        tokens_BND: Tensor = self.vit.forward_features(self.encoder(pixels_B3SS))
        return tokens_BND

    def forward_head(self, tokens_BND: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens -> logits [B,K], or the mean [B,D] that they are computed from."""
        logits_BK: Tensor = self.vit.forward_head(tokens_BND, pre_logits=pre_logits)
        return logits_BK

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """float [B,3,S,S] -> logits [B,K]."""
        return self.forward_head(self.forward_features(pixels_B3SS))

    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.vit.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes."""
        self.vit.reset_classifier(num_classes, global_pool)

    def no_weight_decay(self) -> set[str]:
        """Names of the normalisation weights that look like matrices."""
        return {f"{name}.gamma" for name, module in self.named_modules() if isinstance(module, GDN)}


@register_model
def cnn_vit(pretrained: bool = False, **kwargs: Any) -> CnnVit:
    """The paper's control: 88,964,010 parameters with 10 classes. Takes `img_size` (256) and timm's own arguments."""
    return _cnn_vit("cnn_vit", pretrained, **({"embed_dim": 768, "num_heads": 12} | kwargs))


@register_model
def cnn_vit_tiny(pretrained: bool = False, **kwargs: Any) -> CnnVit:
    """Width 192, 3 heads. Arguments as for `cnn_vit`."""
    return _cnn_vit("cnn_vit_tiny", pretrained, **({"embed_dim": 192, "num_heads": 3} | kwargs))


def _cnn_vit(variant: str, pretrained: bool, **kwargs: Any) -> CnnVit:
    model: CnnVit = build_model_with_cfg(CnnVit, variant, pretrained, **kwargs)
    return model
