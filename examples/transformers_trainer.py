"""A cache in the Trainer of Hugging Face's transformers: python examples/transformers_trainer.py CACHE [EPOCHS]"""

import sys
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

import ci2p


class Classifier(torch.nn.Module):
    def __init__(self, num_classes: int, image_size: int):
        super().__init__()
        self.model = ci2p.create_model("ci2p_vit_tiny", num_classes, image_size)

    def forward(self, latents: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(latents)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def collate(samples: list[Any]) -> dict[str, torch.Tensor]:
    return dict(zip(("latents", "labels"), torch.utils.data.default_collate(samples), strict=True))


path, epochs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30
train, val = ci2p.open(path), ci2p.open(path, "val")
trainer = Trainer(
    Classifier(len(train.classes), train.spec.image_size),
    TrainingArguments("runs/hf", num_train_epochs=epochs, learning_rate=5e-4, report_to=[], save_strategy="no"),
    data_collator=collate,
    train_dataset=train.dataset("random"),  # the Trainer calls its set_epoch: another view of every image
    eval_dataset=val.dataset("plain"),
    compute_metrics=lambda result: {"top1": (result.predictions.argmax(1) == result.label_ids).mean()},
)
trainer.train()
print(f"top-1 {100 * trainer.evaluate()['eval_top1']:.1f} %")
