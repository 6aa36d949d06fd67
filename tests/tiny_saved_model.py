"""A saved model that tests can predict with in milliseconds."""

from pathlib import Path

from configs.schema import Config
from models.build import build_model
from models.model_card import ModelCard
from models.saved_model import save_model
from models.soc import SOC
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root


def write_tiny_saved_model(
    folder: Path, *, min_score: float = 0.0, card: ModelCard | None = None, **sections: object
) -> tuple[SOC, Config]:
    """Writes `folder`, with the data and the checkpoint that it was made from in `<folder>_run`.

    Returns:
        The model in evaluation mode and the configuration that were saved.
    """
    run = folder.with_name(f"{folder.name}_run")
    root = run / "data"
    if not root.exists():
        write_tiny_root(root)
    config = with_busy_weights(tiny_config(root, run / "out", predict={"min_score": min_score}, **sections))
    model = build_model(config.model, data_root=root, for_inference=True).eval()
    save_model(folder, model, config, card=card)
    return model, config
