"""The model card of a codec: what it was trained on, how, and how good it is."""

from ci2p_cache.printable import counted
from pipeline.encode.fit.quality import Quality
from pipeline.encode.fit.settings import FitSettings


def model_card(
    name: str,
    settings: FitSettings,
    *,
    begun_from: str,
    images: str,
    minutes: float,
    machine: str,
    quality: Quality,
    evaluated_on: str,
    weights_sha256: str,
) -> str:
    """Markdown; the figures are those of the weights as they were written."""
    rows = {
        "Architecture": "CompressAI's `bmshj2018_factorized`, qualities 1 to 5 (N=128, M=192), whole: analysis and "
        "synthesis transform, prior",
        "Images": f"{images}, random crops of {settings.crop_size} px ({settings.final_crop_size} px while the "
        f"learning rate fell), resized by {settings.scale[0]:g} to {settings.scale[1]:g} before, mirror images",
        "Begun from": begun_from if begun_from == "random weights" else f"analysis weights sha256 {begun_from}",
        "Loss": f"bits per pixel + {settings.lmbda:g} x 255^2 x squared error; the quantiles by the auxiliary loss",
        "Training": f"{counted(settings.steps, 'step')} of batch {settings.batch_size}, Muon (kernels) and Adam (the "
        f"rest) at {settings.lr:g}, constant, then falling to zero over the last {settings.decay:.0%}; "
        f"gradient norm clipped at {settings.grad_clip:g}; {settings.precision}; seed {settings.seed}",
        "Machine and time": f"{machine}; {minutes:.0f} minutes; one training",
        "Quality": f"{quality} (means over {counted(quality.num_images, 'image')} of {evaluated_on}; rate by the "
        "prior)",
        "Analysis weights": f"sha256 {weights_sha256} (what a cache's spec records)",
        "Precision": "every weight is a float16 number, in both files",
    }
    lines = [f"# {name}", "", "| | |", "|---|---|", *(f"| {field} | {text} |" for field, text in rows.items())]
    return "\n".join(lines) + "\n"
