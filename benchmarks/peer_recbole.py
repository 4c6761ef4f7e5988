"""RecBole's SASRec for benchmarks.movielens_peers, in an environment of its own; called with a folder, as the other side of recommender_peers.py is.

`events.csv` (user, item, at), `users.csv` and `ask.json` lie in the folder; `rankings.csv` (list, user, item, rank) and `cost.json` are left. RecBole has
no public way to fit on a cut and rank for some users, so its own data set, loader and epoch do the training and `full_sort_predict` the scoring. Every
prefix of a history is a row of its own there: an epoch has a row for each event. The last event of some users is kept back to stop by, as for the others.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

USERS_AT_ONCE = 256
TOP = 20


def answer(folder: Path) -> None:
    """Fit the peer that ask.json names on events.csv; leave rankings.csv and cost.json."""
    warnings.filterwarnings("ignore")
    import numpy as np
    import pandas as pd
    import torch

    torch.set_num_threads(1)
    for old, new in (("float_", "float64"), ("complex_", "complex128"), ("unicode_", "str_")):  # names numpy has dropped
        if not hasattr(np, old):
            setattr(np, old, getattr(np, new))
    asked = json.loads((folder / "ask.json").read_text())
    events = pd.read_csv(folder / "events.csv")
    users = pd.read_csv(folder / "users.csv")["user"].to_numpy()
    generator = np.random.default_rng(asked["seed"])
    counts = events["user"].value_counts()
    long = np.sort(counts.index[counts >= 3].to_numpy())
    held_out = generator.choice(long, min(asked["validation_users"], len(long) // 2), replace=False)
    is_last = ~events["user"].duplicated(keep="last")
    kept_back = events[is_last & events["user"].isin(held_out)]
    known = events.drop(kept_back.index)
    kept_back = kept_back[kept_back["item"].isin(known["item"])]
    with tempfile.TemporaryDirectory() as place:
        model, dataset, epochs = _built(known, asked, Path(place))
        before = {user: list(items) for user, items in known.groupby("user")["item"]}
        best, seen, stopped, started = None, [], "most epochs", time.process_time()
        for _ in range(asked["max_epochs"]):
            next(epochs)
            found = _ranked(model, dataset, before, kept_back["user"].to_numpy(), asked["length"], ("again",))
            place_of = found.merge(kept_back[["user", "item"]], on=["user", "item"])["rank"]
            seen.append(round(float((1 / np.log2(1 + place_of[place_of <= 10])).sum() / len(kept_back)), 5))
            if seen[-1] == max(seen):
                best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            if len(seen) - 1 - seen.index(max(seen)) >= asked["patience"]:
                stopped = "no better validation"
                break
            if time.process_time() - started > asked["cpu_seconds"]:
                stopped = f"cap of {asked['cpu_seconds']} CPU seconds"
                break
        cost = {"epochs": len(seen), "stopped": stopped, "validation": seen, "monitor": "ndcg@10", "cpu_seconds": round(time.process_time() - started, 1)}
        model.load_state_dict(best)
        whole = {user: list(items) for user, items in events.groupby("user")["item"]}
        _ranked(model, dataset, whole, users, asked["length"], ("again", "discover")).to_csv(folder / "rankings.csv", index=False)
    (folder / "cost.json").write_text(json.dumps(cost))


def _built(events: Any, asked: dict[str, Any], place: Path) -> tuple[Any, Any, Any]:
    """The model, its data set, and an iterator that trains an epoch at each step."""
    import numpy as np
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.data.utils import get_dataloader
    from recbole.utils import get_model, get_trainer, init_seed

    sys.argv = sys.argv[:1]  # RecBole reads the command line
    (place / "events").mkdir()
    table = events.assign(at=np.arange(len(events)))  # events lie by time; ties keep their order
    table.columns = ["user_id:token", "item_id:token", "timestamp:float"]
    table.to_csv(place / "events" / "events.inter", sep="\t", index=False)
    settings = {
        "data_path": str(place),
        "checkpoint_dir": str(place),
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "seed": asked["seed"],
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": asked["length"],
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "TO", "group_by": "none", "mode": "full"},
        "n_layers": asked["blocks"],
        "n_heads": asked["heads"],
        "hidden_size": asked["width"],
        "inner_size": 4 * asked["width"],
        "hidden_dropout_prob": asked["dropout"],
        "attn_dropout_prob": asked["dropout"],
        "learning_rate": asked["learning_rate"],
        "train_batch_size": asked["batch_rows"],
        "epochs": asked["max_epochs"],
    }
    os.chdir(place)  # it writes logs where it stands
    config = Config(model="SASRec", dataset="events", config_dict=settings)
    init_seed(asked["seed"], True)
    dataset = create_dataset(config)
    training = dataset.build()[0]
    loader = get_dataloader(config, "train")(config, training, None, shuffle=True)
    model = get_model("SASRec")(config, training).to("cpu")
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)

    def epochs() -> Any:
        for number in range(asked["max_epochs"]):
            model.train()
            yield trainer._train_epoch(loader, number, show_progress=False)

    return model, dataset, epochs()


def _ranked(model: Any, dataset: Any, histories: dict[int, list[int]], users: Any, length: int, lists: tuple[str, ...]) -> Any:
    """The best items of each user: list, user, item, rank. `again` offers everything, `discover` nothing of the history."""
    import numpy as np
    import pandas as pd
    import torch
    from recbole.data.interaction import Interaction

    number_of, name_of = dataset.field2token_id["item_id"], dataset.field2id_token["item_id"]
    rows = []
    model.eval()
    with torch.no_grad():
        for start in range(0, len(users), USERS_AT_ONCE):
            some = users[start : start + USERS_AT_ONCE]
            items = [[number_of[str(item)] for item in histories[user] if str(item) in number_of] for user in some]
            padded = torch.zeros(len(some), length, dtype=torch.long)
            for row, history in enumerate(items):
                padded[row, : len(history[-length:])] = torch.tensor(history[-length:])
            lengths = torch.tensor([len(history[-length:]) for history in items])
            asked = Interaction({"item_id_list": padded, "item_length": lengths, "user_id": torch.zeros(len(some), dtype=torch.long)})
            scores = model.full_sort_predict(asked).view(len(some), -1)
            scores[:, 0] = -np.inf
            for name in lists:
                if name == "discover":
                    for row, history in enumerate(items):
                        scores[row, history] = -np.inf
                best = scores.topk(TOP).indices.tolist()
                rows += [(name, user, int(name_of[item]), rank) for user, found in zip(some, best, strict=True) for rank, item in enumerate(found, 1)]
    return pd.DataFrame(rows, columns=["list", "user", "item", "rank"])


if __name__ == "__main__":
    answer(Path(sys.argv[1]))
