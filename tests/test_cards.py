"""What is said of weights: model cards, and the page of results."""

import json

import pytest

import runs
from scorax import conversion, run_lib
from scorax.run_lib import train
from scorax.tools import results
from scorax.utils.cards import headlines, model_card
from scorax.utils.logging import read_json, write_json

REPORT = {
    "bpd": {"num_examples": 64, "bpd": 3.125, "stderr": 0.1},
    "fd": {"num_samples": 256, "FD-mnist-classifier": 17.04, "features": "mnist-classifier"},
    "inpaint": {"num_conditioned": 4, "samples": {"psnr": 20.5}},
    "class_conditional": {"num_samples": 64, "classified_as_asked": 0.98},
    "settings": {"bpd": {"bpd": 1.0}},
    "versions": {"jax": "0.10.2", "commit": "0123456789abcdef"},
    "step": 8,
}


def test_headlines_are_numbers_of_tasks_only():
    assert list(headlines(REPORT)) == [
        ("bpd", "bits/dim", 3.125, 64),
        ("fd", "FD-mnist-classifier", 17.04, 256),
        ("inpaint", "PSNR, dB", 20.5, 4),
        ("class_conditional", "share of the requested class", 0.98, 64),
    ]


def test_the_card_of_a_run_says_what_was_trained_how_long_and_how_good_it_is(tmp_path):
    config, run, target = runs.get_config(), tmp_path / "run", tmp_path / "weights"
    train(config, str(run))
    progress = read_json(run / "progress.json")
    assert progress["step"] == 8 and progress["seconds"] > 0
    write_json(run / "progress.json", progress | {"seconds": 660.0, "command": "python main.py"})
    write_json(run / "eval" / "step_8" / "report.json", REPORT)
    conversion.export_weights(str(run), config, "weights", str(target))
    card = (target / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# weights\n")
    for said in (
        "8 steps of 8 examples in 11 minutes.",
        "`python main.py`",
        "`data.dataset=digits`, examples of shape 8x8x1. Licence of the data: not known",
        "| bpd | bits/dim | 3.125 | 64 |",
        f'scorax.load("{target}")',
        f"{config.model.name}`, 10,857 parameters",
    ):
        assert said in card, said


def test_time_goes_on_after_a_restart(tmp_path):
    train(runs.get_config(), str(tmp_path))
    progress = read_json(tmp_path / "progress.json")
    write_json(tmp_path / "progress.json", progress | {"seconds": 1000.0})
    run_lib.train(runs.get_config(training={"n_iters": 12}), str(tmp_path))
    assert 1000 < read_json(tmp_path / "progress.json")["seconds"] < 2000


def test_a_card_says_what_is_not_known():
    config = runs.get_config()
    config.data.dataset = "image_folder"
    card = model_card("w", config, 8, 10)
    for said in (
        "not known to scorax",
        "time was not recorded",
        "No evaluation of this step",
        "not recorded",
    ):
        assert said in card


def test_a_report_is_added_to_the_page_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RECORDS", tmp_path / "results.json")
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    write_json(tmp_path / "report.json", REPORT)
    command = ["", "--add", str(tmp_path / "report.json"), "--config", "ve/mnist"]
    command += ["--command", "python main.py", "--machine", "a laptop"]
    for _ in range(2):
        results.run(command)
    assert len(json.loads((tmp_path / "results.json").read_text())) == 4
    page = (tmp_path / "results.md").read_text()
    assert page.count("| bits/dim | 3.125 | 64 | a laptop |") == 1 and "0123456789 | 1 |" in page
    with pytest.raises(ValueError, match="--config=ve/digits is no config; name one such as"):
        results.run([*command[:4], "ve/digits", *command[5:]])
    with pytest.raises(ValueError, match="--add needs --config, --command and --machine"):
        results.run(command[:3])
    write_json(tmp_path / "report.json", {"step": 3})
    with pytest.raises(ValueError, match="has no number that the page shows"):
        results.run(command)


def test_the_page_is_what_the_records_say():
    assert results.PAGE.read_text(encoding="utf-8") == results.page(results.read_records())
