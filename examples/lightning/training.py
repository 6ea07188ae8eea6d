"""A Lightning Trainer to ablate: usual Lightning code, and a callback that reports its epochs.

    pip install lightning && ablate run --grid lightning

A trial that is broken off goes on from the checkpoint of its last epoch.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, random_split


class Classifier(L.LightningModule):
    def __init__(self, lr, schedule, batch_norm):
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16) if batch_norm else nn.Identity(),
            nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip

    def training_step(self, batch, _):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, _):
        images, labels = batch
        hits = self.network(images).argmax(1) == labels
        self.log("accuracy", 100 * hits.float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9)
        if self.hparams.schedule == "constant":
            return optimizer
        n_steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams.lr, n_steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Reporting(L.Callback):
    """Reports the metrics of each epoch, with a checkpoint."""

    def __init__(self, report):
        self.report = report

    def on_train_epoch_end(self, trainer, module):
        with TemporaryDirectory() as folder:
            checkpoint = Path(folder, "last.ckpt")
            trainer.save_checkpoint(checkpoint, weights_only=False)
            self.report(trainer.current_epoch + 1, trainer.callback_metrics, checkpoint=checkpoint)


def loaders(batch_size, seed):
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    data = TensorDataset(images, torch.tensor(labels))
    train, test = random_split(data, [0.5, 0.5], torch.Generator().manual_seed(0))
    # Its order depends on the seed and the epoch alone, not on random numbers drawn before, which
    # checkpoints do not hold: a trial that goes on ends with the same bits.
    order = DistributedSampler(train, num_replicas=1, rank=0, seed=seed)
    return DataLoader(train, batch_size, sampler=order), DataLoader(test, batch_size=500)


def train(config, seed, report, resume_from=None):
    L.seed_everything(seed)
    model = Classifier(config["lr"], config["schedule"], config["batch_norm"])
    trainer = L.Trainer(
        max_epochs=config["epochs"],
        accelerator="cpu",
        callbacks=[Reporting(report)],
        # `ablate` keeps the metrics and the last checkpoint
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, *loaders(config["batch_size"], seed), ckpt_path=resume_from)
    # nothing besides what was reported for the last epoch
    return {}
