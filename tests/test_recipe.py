"""A recipe says what it means; a misspelt one dies loudly, naming the nearest key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lightcrl.errors import LightCRLError, RecipeError, UnknownNameError
from lightcrl.growth.head import HeadRecipe
from lightcrl.growth.spec import GrowthRecipe, MeasuredSpec, VectorsSpec
from lightcrl.methods import METHODS
from lightcrl.recipe import Recipe, anchor_path, load_recipe, make_recipe

PROJECT = Path(__file__).parents[1]

TEXT = """
[data]
train = "pairs/train.jsonl"
dev = "pairs/dev.jsonl"

[encoders.image]
kind = "image"
model = "org/vit"

[encoders.text]
kind = "text"
model = "./bert"
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str = TEXT, **given: object) -> Recipe:
        path = tmp_path / "recipes" / "birds.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return load_recipe(path, **given)  # type: ignore[arg-type]

    return write


def test_a_short_recipe_is_enough(write):
    recipe = write()
    assert (recipe.name, recipe.method.name, recipe.training.loss) == ("birds", "dfe", "auto")
    assert recipe.kinds == {"image": "image", "text": "text"}
    assert recipe.folder == Path("runs/birds")


def test_paths_count_from_the_recipes_folder_and_hub_ids_stay(write, tmp_path):
    recipe = write()
    assert recipe.data.train == str(tmp_path / "recipes/pairs/train.jsonl")
    assert recipe.encoders["text"].model == str(tmp_path / "recipes/bert")
    assert recipe.encoders["image"].model == "org/vit"


def test_a_uri_stays_as_it_is(write):
    text = (
        TEXT.replace("pairs/train.jsonl", "s3://bucket/train.jsonl") + '[features]\nfolder = "s3://bucket/features"\n'
    )
    recipe = write(text, overrides=["evaluation.zero_shot.data=file:///data/classes"])
    assert (recipe.data.train, recipe.features.folder) == ("s3://bucket/train.jsonl", "s3://bucket/features")
    assert write(overrides=["features.folder=gs://b/f"]).features.folder == "gs://b/f"


def test_who_encodes_is_one_of_the_engines_and_a_crew_is_for_those_that_have_one(write):
    spec = write(overrides=["features.engine=ray", "features.actor_cpus=4"]).features
    assert (spec.engine, spec.crew.actors, spec.crew.cpus, spec.crew.gpus) == ("ray", "auto", 4, 0)
    with pytest.raises(UnknownNameError, match=r"^unknown engine 'rya'\. Did you mean 'ray'\? Known: local, ray"):
        write(overrides=["features.engine=rya"])
    with pytest.raises(RecipeError, match="features: actors, actor_cpus and actor_gpus are for engine = 'ray'"):
        write(overrides=["features.actors=2"])


def test_set_changes_one_key_and_its_paths_count_from_here(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/vit").mkdir(parents=True)
    recipe = write(
        overrides=[
            "training.epochs=3",
            "training.schedule=plateau",
            "evaluation.seeds=[1, 2]",
            "data.train=other.jsonl",
            "encoders.image.model=org/vit",
            "method.fusion=multiplication",
        ],
        output="here",
    )
    assert (recipe.training.epochs, recipe.training.schedule, recipe.evaluation.seeds) == (3, "plateau", (1, 2))
    assert recipe.data.train == str(tmp_path / "other.jsonl")
    assert recipe.encoders["image"].model == str(tmp_path / "org/vit")
    assert recipe.method.options["fusion"] == "multiplication"
    assert recipe.folder == tmp_path / "here"


PAIRS = "[evaluation]\ntext_similarity = {{ data = {!r}, calibration = 'pairs/train.csv' }}"


@pytest.mark.parametrize("data", ["pairs.jsonl", "./pairs", "nyu-mll/glue/mrpc"])
def test_pairs_are_a_table_in_the_recipes_folder_or_a_hub_id(write, tmp_path, data):
    pairs = write(TEXT + PAIRS.format(data)).evaluation.text_similarity
    assert pairs.data == (data if data.startswith("nyu") else str(tmp_path / "recipes" / data))
    assert pairs.calibration == str(tmp_path / "recipes/pairs/train.csv")


def test_pairs_of_texts_need_an_encoder_of_texts(write):
    with pytest.raises(RecipeError, match=r"needs an encoder of kind 'text'; found image \(image\), text \(audio\)"):
        write(TEXT.replace('kind = "text"', 'kind = "audio"') + PAIRS.format("pairs.jsonl"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trainig]\nepochs = 3", "unknown key 'trainig'. Did you mean 'training'?"),
        ("[training]\nepoch = 3", "unknown key 'training.epoch'. Did you mean 'epochs'?"),
        ("epochs = 3", "unknown key 'encoders.text.epochs'. Did you mean 'training.epochs'?"),
        ("[training]\nviews = 3", "unknown key 'training.views'. Did you mean 'encoders.<name>.views'?"),
        ("[training]\nseed = 3", "unknown key 'training.seed'. Did you mean 'evaluation.seeds'?"),
        ("[features]\nfolders = 'a'", "unknown key 'features.folders'. Did you mean 'folder'?"),
        ("[features]\nzebra = 'a'", "unknown key 'features.zebra'. Known here:"),
        ("[method]\nfuson = 'addition'", "unknown key 'method.fuson'. Did you mean 'fusion'?"),
        ("[evaluation.zero_shot]\ndta = 'x'", "unknown key 'evaluation.zero_shot.dta'. Did you mean 'data'?"),
        (
            "[evaluation.text_similarity]\ndata = 'x'\ncolumn = 'y'",
            "unknown key 'evaluation.text_similarity.column'. Did you mean 'columns'?",
        ),
        ("[features]\nworkers = 0", "features.workers: Input should be greater than 0, found 0."),
        (
            "[training]\nschedule = 'cosin'",
            "training.schedule: Input should be 'auto', 'cosine' or 'plateau', found 'cosin'.",
        ),
        ("[training]\nepochs = 'x'", "training.epochs: Input should be a whole number or 'auto', found 'x'."),
        ("[method]\ninput_dropout = 2", "method.input_dropout: Input should be less than 1 or 'auto', found 2."),
        ("[evaluation]\nseeds = 3", "evaluation.seeds: Input should be a list, found 3."),
        ("[training]\nbatch_size = 1", "batch_size is 1, expected at least 2"),
        ("[training]\nloss = 'sigmoid'\nlabel_smoothing = 0.1", "label_smoothing is 0.1, but loss 'sigmoid' has none"),
        ("[method]\nheads = 3", "method: dim 512 does not divide into 2 parts of 3 heads"),
    ],
)
def test_what_is_wrong_is_named(write, text, message):
    with pytest.raises(RecipeError) as caught:
        write(TEXT + text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("[method]\nname = 'dfee'", "unknown method 'dfee'. Did you mean 'dfe'?"),
        ("[method]\nfusion = 'adition'", "unknown fusion operation 'adition'. Did you mean 'addition'?"),
        ("[training]\nloss = 'infonce'", "unknown loss 'infonce'. Did you mean 'info_nce'?"),
        ("[evaluation]\nbaselines = ['lnear']", "unknown method 'lnear'. Did you mean 'linear'?"),
    ],
)
def test_an_unknown_name_in_a_table_is_named(write, text, near):
    with pytest.raises(UnknownNameError) as caught:
        write(TEXT + text)
    assert near in str(caught.value)


def test_a_missing_key_and_a_single_modality_are_named(write):
    with pytest.raises(RecipeError, match=r"missing key 'encoders\.text\.kind'"):
        write(TEXT.replace('kind = "text"\n', ""))
    with pytest.raises(RecipeError, match="encoders: Dictionary should have at least 2 items"):
        write(TEXT.partition("[encoders.text]")[0])


def test_an_unknown_key_of_an_encoder_is_named(write):
    with pytest.raises(RecipeError, match=r"unknown key 'encoders\.text\.modl'\. Did you mean 'model'\?"):
        write(TEXT + 'modl = "x"')


def test_a_file_that_is_not_there_or_not_toml_is_named(write, tmp_path):
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*absent\.toml: No such file"):
        load_recipe(tmp_path / "absent.toml")
    with pytest.raises(RecipeError, match="is not TOML"):
        write("[data")
    with pytest.raises(RecipeError, match=r"--set 'training': expected section\.key=value"):
        write(overrides=["training"])


def test_a_recipe_survives_json(write):
    recipe = write(TEXT + "[evaluation]\nzero_shot = { data = 'classes' }\nbaselines = ['linear']")
    assert make_recipe(recipe.model_dump(mode="json")) == recipe


RECIPES = [path for path in sorted((PROJECT / "recipes").rglob("*.toml")) if path.name != "family.toml"]
COMMANDS = {"# lightcrl run recipes/": load_recipe, "# lightcrl reproduce recipes/": load_recipe}
COMMANDS |= {"# lightcrl extend runs/": GrowthRecipe.read, "# lightcrl head runs/": HeadRecipe.read}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_recipe_of_the_project_is_valid_and_says_how_to_run_it(path):
    head = path.read_text().splitlines()[0]
    (load,) = {load for start, load in COMMANDS.items() if head.startswith(start)}
    assert load(path).name == tomllib.loads(path.read_text()).get("name", path.stem)
    assert str(path.relative_to(PROJECT)) in head or head.startswith("# lightcrl reproduce")


def test_every_key_of_a_recipe_that_extends_is_in_the_docs():
    text = (PROJECT / "docs/extending_a_space.md").read_text()
    tables = (GrowthRecipe, VectorsSpec, MeasuredSpec)
    assert not [key for table in tables for key in table.model_fields if f"`{key}`" not in text]


def test_every_method_is_in_the_table_of_what_is_trained_of_it():
    text = (PROJECT / "docs/extending_a_space.md").read_text()
    rows = dict(line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| `"))
    for name in METHODS:
        assert rows[f"`{name}`"].startswith("refused") == bool(METHODS.load(name).rigid)


def test_every_key_is_in_the_docs():
    """docs/recipes.md and docs/tasks.md name every key of every table."""
    from lightcrl.data import DataSpec
    from lightcrl.encoders.base import EncoderSpec
    from lightcrl.encoders.tower import TuningSpec
    from lightcrl.features.spec import FeaturesSpec
    from lightcrl.methods.spec import MethodSpec
    from lightcrl.tasks.spec import TASKS, EvaluationSpec
    from lightcrl.training.spec import TrainingSpec

    text = "".join((PROJECT / f"docs/{name}.md").read_text() for name in ("recipes", "tasks"))
    tables = [Recipe, DataSpec, EncoderSpec, TuningSpec, FeaturesSpec, TrainingSpec, EvaluationSpec]
    tables += [TASKS.load(name).Spec for name in TASKS]
    tables += [METHODS.load(name).Options for name in METHODS]
    missing = [f"{table.__name__}.{key}" for table in tables for key in table.model_fields if f"`{key}`" not in text]
    assert not missing
    assert "`name`" in text
    assert not [name for name in METHODS if f"`{name}`" not in text]
    assert MethodSpec.model_fields.keys() == {"name", "options"}


def test_every_error_is_of_the_one_tree():
    from lightcrl import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, LightCRLError) for kind in kinds)
    assert {kind.exit_code for kind in kinds} == {1}


@pytest.mark.parametrize(("value", "words"), [("~nobody-here/a", "home directory"), ("x" * 300, "File name too long")])
def test_a_path_that_cannot_be_is_refused(tmp_path, value, words):
    with pytest.raises(RecipeError, match=f"'{value[:60]}': .*{words}"):
        anchor_path(value, tmp_path, may_be_id=False)
    assert anchor_path("", tmp_path, may_be_id=True) == ""
