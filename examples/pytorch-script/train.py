"""A PyTorch training script in the usual style. It knows nothing of `ablate`.

python train.py --lr 0.001 --seed 1 --out /tmp/digits
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Classify handwritten digits.")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="sgd")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--norm", action="store_true", help="batch normalisation")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    labels = torch.tensor(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1000], order[1000:]
    loader = DataLoader(TensorDataset(images[train], labels[train]), batch_size=64, shuffle=True)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16) if args.norm else nn.Identity(),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(args.dropout), nn.Linear(256, 10),
    )  # fmt: skip
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimizer = optimizers[args.optimizer](model.parameters(), lr=args.lr)
    for epoch in range(1, args.epochs + 1):
        model.train()
        total = 0.0
        for batch, targets in loader:
            loss = nn.functional.cross_entropy(model(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(targets)
        model.eval()
        with torch.no_grad():
            hits = model(images[test]).argmax(1) == labels[test]
        accuracy = 100 * hits.double().mean()
        print(f"epoch={epoch} train/loss={total / len(train):.4f} test/accuracy={accuracy:.2f}")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), args.out / "model.pt")


if __name__ == "__main__":
    main()
