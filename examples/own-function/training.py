"""Own training code to ablate: a function `train(config, seed, report) -> metrics`.

    ablate run --grid own-function

`config` holds the settings of experiments/own.yaml, changed as the levels of the grid's factors
say.
"""

from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler


def train(config, seed, report):
    images, labels = load_digits(return_X_y=True)
    if config["scaling"]:
        images = StandardScaler().fit_transform(images)
    split = train_test_split(images, labels, test_size=0.5, stratify=labels, random_state=seed)
    train_images, test_images, train_labels, test_labels = split
    model = SGDClassifier(
        learning_rate="constant", eta0=config["lr"], average=config["averaging"], random_state=seed
    )
    for epoch in range(1, config["epochs"] + 1):
        model.partial_fit(train_images, train_labels, classes=range(10))
        accuracy = 100 * balanced_accuracy_score(test_labels, model.predict(test_images))
        report(epoch, {"accuracy": accuracy})
    return {"accuracy": accuracy}
