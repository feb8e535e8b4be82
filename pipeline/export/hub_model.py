"""`ci2p.HubModel`: the model of a published folder, by huggingface_hub's own way of loading and saving."""

# B batch, C latent channels, H=W latent grid, K classes

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from ci2p_cache.errors import WorkError
from pipeline.models import build_by_name
from pipeline.train.run_folder import PUBLISHED
from pipeline.train.weights_file import read_weights, write_plain_weights
from pipeline.train.window import centre_window


class HubModel(nn.Module, PyTorchModelHubMixin):
    """A model that `ci2p export --to hub` published: `HubModel.from_pretrained("folder or name on the Hub")`.

    It maps latents float32 [B, C, H, W], as a cache gives them, to logits [B, K] whose classes are `label_names`, and
    is in evaluation mode. `model` is timm's own, without the window that a recipe may have. Its arguments are what the
    folder's config.json says.
    """

    def __init__(
        self,
        architecture: str,
        num_classes: int,
        model_args: dict[str, Any] | None = None,
        label_names: list[str] | None = None,
        pretrained_cfg: dict[str, Any] | None = None,
        window: int = 0,
        ci2p: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = build_by_name(architecture, num_classes, model_args or {})
        self.label_names = list(label_names or ())
        self.window = window

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        """float [B,C,H,W] -> logits [B,K]."""
        logits_BK: Tensor = self.model(
            centre_window(latents_BCHW, self.window) if self.window else latents_BCHW,
        )
        return logits_BK

    # The file holds timm's names of the weights, without the "model." that they have in here.

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        weights, _ = read_weights(Path(model_file))
        try:
            model.model.load_state_dict(weights)
        except RuntimeError as error:
            why = str(error).splitlines()[-1].strip()
            raise WorkError(f"{model_file} does not fit its config.json: {why}") from error
        return model.to(map_location).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        write_plain_weights(save_directory / PUBLISHED, self.model.state_dict())
