"""Every parameter file is a valid configuration, says what it is, and names no folder of one machine."""

from pathlib import Path

import pytest

from contracts.config import PipelineConfig

FOLDER = Path(__file__).parents[2] / "deployments" / "parameters"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_is_a_file_for_every_ready_data_set():
    datasets = {PipelineConfig.from_yaml(path).source.dataset for path in FILES}
    assert datasets == {"table", "complete_journey", "online_retail_ii", "amazon_reviews", "flickr_trips", "hotel_bookings", "synthetic"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_is_a_configuration_with_a_header(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(text.split("\n")[0]) > 40
    config = PipelineConfig.from_yaml(path)
    addresses = [config.source.uri, config.source.catalogue_uri, config.source.deletions_uri]
    assert all(address is None or address.startswith("${") for address in addresses)


def test_demo_follows_the_protocol_and_promotes_without_a_reviewer():
    config = PipelineConfig.from_yaml(FOLDER / "complete_journey.yaml")
    assert [origin.isoformat() for origin in config.evaluation.origins] == ["2017-06-01", "2017-09-01", "2017-11-01"]
    assert config.evaluation.leads_days == (0, 28)
    assert config.registry.auto_promote


def test_misspelt_key_names_the_nearest(tmp_path: Path):
    text = (FOLDER / "tiny.yaml").read_text(encoding="utf-8").replace("dataset:", "datset:")
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"source\.datset: unknown key; did you mean `dataset`\?"):
        PipelineConfig.from_yaml(tmp_path / "tiny.yaml")
