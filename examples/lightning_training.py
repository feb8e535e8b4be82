"""A cache in Lightning: python examples/lightning_training.py CACHE [EPOCHS]"""

import sys
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import ci2p


class Classifier(LightningModule):
    def __init__(self, num_classes: int, image_size: int):
        super().__init__()
        self.model = ci2p.create_model("ci2p_vit_tiny", num_classes, image_size)

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.dataset.set_epoch(self.current_epoch)  # another view of every image

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("top1", (self.model(batch[0]).argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-4, weight_decay=0.05)


path, epochs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30
seed_everything(0)
train, val = ci2p.open(path), ci2p.open(path, "val")
trainer = Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, log_every_n_steps=1)
batches = (DataLoader(train.dataset(), 8, shuffle=True), DataLoader(val.dataset("plain"), 64))
trainer.fit(Classifier(len(train.classes), train.spec.image_size), *batches)
print(f"top-1 {100 * trainer.callback_metrics['top1']:.1f} %")
